"""Problems of evaluation sets are found among training problems, and refused or told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rstar_cli.contamination import Known, tokens
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.records import Problem
from rstar_cli.report import collect, curve_table
from rstar_cli.stages.problem_sets import draw_problems, evaluated_problems
from tests.helpers import rstar

STORY = "A farmer sells {} eggs on Monday and twice as many on Tuesday, at {} cents each. How many cents does he earn?"


@pytest.mark.parametrize(
    ("evaluation", "training", "kind"),
    [
        ("What is $2 + 2$?", "what is 2+2", "exact"),
        (r"Simplify $\sqrt{245}$.", r"Simplify: $\sqrt{245}$", "exact"),
        ("Find $1,000 \\cdot 3$.", r"Find $1000\cdot3$.", "exact"),
        (STORY.format(12, 5), STORY.format(12, 5).replace("farmer", "grocer"), "near"),
        (STORY.format(12, 5), "Solve this one. " + STORY.format(12, 5), "near"),
        (STORY.format(12, 5), STORY.format(13, 5), None),
        (STORY.format(12, 5), STORY.format(5, 12), None),
        ("What is 2 + 2?", "What is 2 - 2?", None),
        ("What is 2 + 2?", "Ann asks: what is 2 + 2? Tell her.", None),
    ],
)
def test_what_counts_as_the_same_problem(evaluation: str, training: str, kind: str | None) -> None:
    found = Known(["Something else entirely.", evaluation]).find(training)
    assert found == (None if kind is None else (1, kind))


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_text_is_found_in_any_case_and_spacing(text: str, other: str) -> None:
    found = Known([text, other]).find(f"  {text.upper().lower()}\n ")
    if tokens(text.upper().lower()) == tokens(text):
        assert found == (0, "exact")


def test_drawn_problems_are_never_near_to_evaluated_ones(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", _recipe(tmp_path, 'count = 300\nlevels = "1-2"\n', "count = 400\n"))
    known = Known(p.problem for _, p in evaluated_problems(run))
    drawn = draw_problems(run, 1)
    assert len(drawn) == 300
    assert not known.overlaps(p.problem for p in drawn)
    seeded = make_problems(300, 0, (1, 2))
    assert Known(p.problem for p in seeded).overlaps(p.problem for p in drawn) != [], "near ones there are"


def test_given_problems_are_refused_or_told_of(tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluation = make_problems(3, 5, (1,))
    write_rows(tmp_path / "test.jsonl", evaluation)
    write_rows(tmp_path / "given.jsonl", [*make_problems(3, 6, (1,)), evaluation[1]])
    recipe = _recipe(tmp_path, "", f'source = "{tmp_path}/test.jsonl"\n')
    rstar("init", "--run", str(run), "--recipe", str(recipe), cwd=tmp_path)
    asked = ("--run", str(run), "--round", "1")
    searched = (*asked, "--engine", "scripted", "--problems", str(tmp_path / "given.jsonl"))
    done = rstar("generate", *searched, cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert f"{evaluation[1].id} is {evaluation[1].id} of test (exact)" in done.stderr
    assert "--allow-contamination" in done.stderr
    assert not (run / "round_1" / "trees.jsonl").exists()

    rstar("generate", *searched, "--allow-contamination", cwd=tmp_path)
    entry = read_manifest(run / "round_1" / "manifest.json")["generate"]
    assert entry["config"]["allow_contamination"] is True
    assert entry["counts"]["contaminated"] == 1
    report = collect(RunDir.open(run))
    assert report["rounds"][0]["contaminated"] == 1
    console = Console(file=io.StringIO(), width=100)
    console.print(curve_table(report))
    assert "Round 1 trained on 1 problems of evaluation sets" in console.file.getvalue()  # type: ignore[attr-defined]


def test_rows_of_problems_that_became_an_evaluation_set_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    problems = make_problems(3, 6, (1,))
    write_rows(tmp_path / "test.jsonl", make_problems(3, 5, (1,)))
    write_rows(tmp_path / "given.jsonl", problems)
    recipe = _recipe(tmp_path, "", f'source = "{tmp_path}/test.jsonl"\n')
    rstar("init", "--run", str(run), "--recipe", str(recipe), cwd=tmp_path)
    asked = ("--run", str(run), "--round", "1")
    rstar("generate", *asked, "--engine", "scripted", "--problems", str(tmp_path / "given.jsonl"), cwd=tmp_path)
    rstar("verify", *asked, cwd=tmp_path)
    trained = {json.loads(line)["problem_id"] for line in (run / "round_1" / "sft.jsonl").read_text().splitlines()}
    write_rows(
        tmp_path / "test.jsonl",
        [Problem(id=f"e-{p.id}", problem=p.problem, answer=p.answer) for p in problems if p.id in trained],
    )
    for stage in ("train-policy", "train-prm"):
        done = rstar(
            stage, *asked, *(("--model", "embedded") if stage == "train-prm" else ()), cwd=tmp_path, check=False
        )
        assert done.returncode == 3, done.stderr
        assert " is e-syn-" in done.stderr


def _recipe(folder: Path, run: str, evaluation: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f"[run]\n{run}[eval.test]\n{evaluation}[verify]\n", encoding="utf-8")
    return path
