"""Evaluations by the scripted engine as a user runs them: figures, logs of samples, and two of them compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.jsonl import digest, read_rows, write_rows
from rstar_cli.metrics import mcnemar, paired_gain
from rstar_cli.prompts import render_prompt
from rstar_cli.records import EvalRow, Problem, Verdict
from tests.helpers import ROOT, rstar

GOLDEN = ROOT / "tests" / "golden" / "evaluation.json"
SCRIPTED = ("--engine", "scripted", "--prm", "any", "--samples", "6", "--rollouts", "6", "--exec-workers", "1")
METHODS = ["greedy", "majority@6", "best_of_n@6", "weighted@6", "pass@1", "pass@6", "mcts@6", "mcts_top4@6"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three evaluations: two of the same 40 problems, with other prompts, and one of 25 of them; and two runs."""
    root = tmp_path_factory.mktemp("evaluate")
    rstar("problems", "make", "--count", "40", "--seed", "5", "--output", "p.jsonl", cwd=root)
    command = ("evaluate", "--policy", "embedded", "--benchmark", "p.jsonl", *SCRIPTED)
    rstar(*command, "--output", "a", "--few-shot", "0", "--log-samples", cwd=root)
    rstar(*command, "--output", "b", "--few-shot", "1", cwd=root)
    rstar(*command, "--output", "part", "--few-shot", "1", "--limit", "25", cwd=root)
    for run, flags in (("r1", ("--few-shot", "0")), ("r2", ("--few-shot", "1"))):
        in_run = ("evaluate", "--run", run, "--round", "0", "--benchmark", "p.jsonl", "--engine", "scripted")
        rstar(*in_run, "--samples", "6", "--rollouts", "0", *flags, cwd=root)
    return root


def right(path: Path) -> dict[str, bool]:
    return {row.problem_id: row.samples[0].verdict is Verdict.CORRECT for row in read_rows(path, EvalRow)}


def compared(place: Path, a: str, b: str, *flags: str) -> dict[str, Any]:
    done = rstar("evaluate", "--compare", a, b, "--json", *flags, cwd=place)
    return json.loads(done.stdout)


def test_figures_are_the_stored_ones(place: Path) -> None:
    """If a change of figures is meant, store the new ones: those of the evaluation `a` above."""
    got = json.loads((place / "a/p.json").read_bytes())
    stored = json.loads(GOLDEN.read_bytes())
    assert list(got) == METHODS
    for method, figures in stored.items():
        assert got[method] == figures
    assert got == stored


def test_the_report_holds_them_all(place: Path) -> None:
    figures = json.loads((place / "r1/round_0/eval/p.json").read_bytes())
    rstar("report", "--run", "r1", cwd=place)
    told = json.loads((place / "r1/report.json").read_bytes())["rounds"][0]["eval"]["p"]
    assert told == {method: {k: v for k, v in found.items() if k != "verdicts"} for method, found in figures.items()}
    assert told["pass@6"]["theory"]
    assert told["greedy"]["by_subject"]


def test_two_evaluations_are_compared(place: Path) -> None:
    told = compared(place, "a", "b")
    data = told["data"]["p"]
    assert list(data) == METHODS
    before, after = right(place / "a/p.greedy.jsonl"), right(place / "b/p.greedy.jsonl")
    won = sum(after[i] > before[i] for i in before)
    lost = sum(after[i] < before[i] for i in before)
    assert won
    assert lost
    gain, interval = paired_gain([*before.values()], [after[i] for i in before])
    greedy = data["greedy"]
    assert (greedy["won"], greedy["lost"], greedy["tied"]) == (won, lost, 40 - won - lost)
    assert greedy["p"] == mcnemar(won, lost)
    assert (greedy["gain"], tuple(greedy["ci95"])) == (gain, interval)
    assert greedy["problems"] == {"a": 40, "b": 40, "both": 40}
    for method, found in data.items():
        sides = [json.loads((place / side / "p.json").read_bytes())[method] for side in "ab"]
        assert found["accuracy"] == [pytest.approx(side["accuracy"]) for side in sides]
        assert found["tokens"] == [side["tokens"] for side in sides]
        assert (found["p"] is None) == (method == "pass@1"), "it is a chance; all else is yes or no"
    back = compared(place, "b", "a")["data"]["p"]["greedy"]
    assert (back["won"], back["lost"], back["p"]) == (lost, won, greedy["p"])
    assert back["gain"] == -gain


def test_the_comparison_fits_into_80_columns(place: Path) -> None:
    shown = rstar("evaluate", "--compare", "a", "b", cwd=place, COLUMNS="80").stderr
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "won/lost/tied" in shown
    assert "A  a" in shown
    for method in METHODS:
        assert f"\n {method} " in shown


def test_sides_are_rounds_runs_folders_and_files(place: Path) -> None:
    folders = compared(place, "a", "b")["data"]["p"]
    greedy = {"p": {"greedy": folders["greedy"]}}
    ways = [
        ("r1:0", "r2:0", ()),
        ("0", "r2:0", ("--run", "r1")),
        ("r1/round_0", "r2/round_0/eval", ()),
        ("a/p.greedy.jsonl", "r2/round_0/eval/p.greedy.jsonl", ()),
        ("a/p.greedy.jsonl", "r2:0", ()),
    ]
    for a, b, flags in ways:
        told = compared(place, a, b, *flags)["data"]
        assert {"p": {"greedy": told["p"]["greedy"]}} == greedy
        assert len(told["p"]) == 1 if "greedy" in a else list(told["p"]) == ["greedy", "majority@6", "pass@1", "pass@6"]
    told = compared(place, "a/p.greedy.jsonl", "a/p.mcts@6.jsonl")["data"]["p"]
    assert list(told) == ["greedy, mcts@6"]
    assert told["greedy, mcts@6"]["problems"]["both"] == 40


def test_only_problems_of_both_are_compared(place: Path) -> None:
    told = compared(place, "a", "part")
    greedy = told["data"]["p"]["greedy"]
    assert greedy["problems"] == {"a": 40, "b": 25, "both": 25}
    assert told["notes"] == ["p: of 40 problems of A and 25 of B, the 25 of both count."]
    rows = list(read_rows(place / "a/p.greedy.jsonl", EvalRow))
    common = right(place / "part/p.greedy.jsonl")
    assert greedy["tokens"][0] == sum(row.tokens for row in rows if row.problem_id in common)
    assert greedy["won"] + greedy["lost"] + greedy["tied"] == 25


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--compare", "a", "none"), 2, "'none'"),
        (("--compare", "a", "r1"), 2, "r1:1"),
        (("--compare", "a", "r1:3"), 3, "rstar evaluate --round 3 --run r1"),
        (("--compare", "0", "r1:0", "--run", "none"), 3, "there is no run at none"),
        (("--compare", "a", "p.jsonl"), 3, "NAME.METHOD.jsonl"),
        (("--compare", "a", "other"), 3, "no set was evaluated by the same method in both (A: p greedy, p samples"),
        (("--compare", "a/p.greedy.jsonl", "moved/p.greedy.jsonl"), 3, "no problem of a/p.greedy.jsonl is in"),
        (("--compare", "a", "twice/p.greedy.jsonl"), 3, "p.greedy.jsonl:2:problem_id"),
        (("--compare", "a", "b", "--samples", "4"), 2, "--samples has no meaning"),
        (("--compare", "a", "b", "--benchmark", "x"), 2, "--benchmark has no meaning"),
        (("--compare", "a", "b", "--dry-run"), 2, "--dry-run has no meaning"),
        (("--compare", "a", "b", "--shard", "1/2"), 2, "--shard has no meaning"),
        (("--run", "r1", "--round", "0", "--shard", "1/2", "--log-samples"), 2, "rstar merge"),
    ],
)
def test_what_can_not_be_compared_is_told(place: Path, flags: tuple[str, ...], code: int, says: str) -> None:
    rows = list(read_rows(place / "a/p.greedy.jsonl", EvalRow))
    for folder, name, written in (
        ("other", "q", rows),
        ("moved", "p", [row.model_copy(update={"problem_id": f"other {row.problem_id}"}) for row in rows]),
        ("twice", "p", [rows[0], rows[0]]),
    ):
        (place / folder).mkdir(exist_ok=True)
        write_rows(place / folder / f"{name}.greedy.jsonl", written)
    failed = rstar("evaluate", *flags, cwd=place, check=False)
    assert failed.returncode == code, failed.stderr
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (place / "none").exists()


def test_samples_are_logged_as_the_harness_does(place: Path) -> None:
    """Its fields (lm_eval/evaluator.py, version 0.4), its hashes, and what its own readers take from a file's name."""
    problems = list(read_rows(place / "p.jsonl", Problem))
    files = sorted((place / "a/log").iterdir())
    assert [file.name.partition("_p_")[2].removesuffix(".jsonl") for file in files] == sorted(
        method.replace("_", "-") for method in METHODS
    )
    for file in files:
        assert file.name[file.name.find("_") + 1 : file.name.rfind("_")] == "p", "the harness's name of the task"
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        assert [entry["doc_id"] for entry in entries] == list(range(40))
        figures = json.loads((place / "a/p.json").read_bytes())[entries[0]["filter"]]
        for entry, problem in zip(entries, problems, strict=True):
            (metric,) = entry["metrics"]
            assert metric == ("exact_match" if "pass@" not in file.name else entry["filter"])
            assert entry["target"] == entry["doc"]["answer"] == problem.answer
            assert entry["doc"] == problem.model_dump()
            prompt = entry["arguments"]["gen_args_0"]["arg_0"]
            assert prompt == render_prompt(problem.problem)
            assert len(entry["resps"]) == len(entry["filtered_resps"]) == 1
            hashed = {"doc": json.dumps(entry["doc"], indent=2, ensure_ascii=False), "prompt": prompt}
            for name, text in {**hashed, "target": entry["target"]}.items():
                assert entry[f"{name}_hash"] == hashlib.sha256(text.encode()).hexdigest()
        assert sum(entry[metric] for entry in entries) / 40 == pytest.approx(figures["accuracy"])


def test_what_was_written_can_be_read(place: Path) -> None:
    greedy = [json.loads(line) for line in (place / "a/log/samples_p_greedy.jsonl").read_text().splitlines()]
    for entry in greedy:
        ((text,),), (answer,) = entry["resps"], entry["filtered_resps"]
        assert text
        assert answer == "[invalid]" or f"\\boxed{{{answer}}}<end_of_answer>" in text
        assert (entry["exact_match"] == 1) == (answer == entry["target"])
        assert "<output>" in text or answer == "[invalid]"
    assert any("1 / 0" in entry["resps"][0][0] for entry in greedy), "a step that failed is there, too"
    assert {entry["exact_match"] for entry in greedy} == {0, 1}
    done = rstar("verify", "--input", "a/log/samples_p_greedy.jsonl", "--output", "-", cwd=place)
    graded = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] == "correct" for row in graded] == [entry["exact_match"] == 1 for entry in greedy]


def test_logs_can_be_had_later_and_are_equal(place: Path) -> None:
    """The rows keep the texts: nothing is solved again."""
    before = {path.name: path.read_bytes() for path in (place / "a").rglob("*.jsonl")}
    command = ("evaluate", "--policy", "embedded", "--benchmark", "p.jsonl", *SCRIPTED, "--few-shot", "0")
    rstar(*command, "--output", "a", "--log-samples", cwd=place)
    assert {path.name: path.read_bytes() for path in (place / "a").rglob("*.jsonl")} == before


def test_rows_of_an_older_version_have_figures_and_no_log(place: Path, tmp_path: Path) -> None:
    command = ("evaluate", "--policy", "embedded", "--benchmark", str(place / "p.jsonl"), "--engine", "scripted")
    rstar(*command, "--output", "old", cwd=tmp_path)
    file = tmp_path / "old/p.greedy.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        del row["subject"]
        for sample in row["samples"]:
            del sample["text"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = tmp_path / "old/manifest.json"
    told = json.loads(manifest.read_bytes())
    told["stages"]["evaluate p greedy"]["outputs"][file.name] = digest(file)._asdict()
    manifest.write_text(json.dumps(told))
    assert "done before" in rstar(*command, "--output", "old", cwd=tmp_path).stderr
    refused = rstar(*command, "--output", "old", "--log-samples", cwd=tmp_path, check=False)
    assert refused.returncode == 3
    assert "p.greedy.jsonl: these rows hold no text" in refused.stderr


def test_the_summary_fits_into_80_columns(place: Path) -> None:
    command = ("evaluate", "--policy", "embedded", "--benchmark", "p.jsonl", *SCRIPTED, "--few-shot", "0")
    shown = rstar(*command, "--output", "a", cwd=place, COLUMNS="80").stderr
    lines = [line for line in shown.splitlines() if not line.startswith("there:")]
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    for words in (*METHODS, "per solved", "seconds", "p by level", "p by subject"):
        assert words in shown
    told = json.loads(rstar(*command, "--output", "a", "--json", cwd=place).stdout)["data"]["p"]
    seconds = json.loads((place / "a/manifest.json").read_bytes())["stages"]["evaluate p samples"]["seconds"]
    assert told["majority@6"]["seconds"] == told["pass@6"]["seconds"] == seconds
    assert told["pass@1"]["seconds"] == pytest.approx(seconds / 6, abs=0.06)
    for found in told.values():
        if found["accuracy"]:
            solved = found["accuracy"] * found["n"]
            assert found["tokens_per_solved"] == pytest.approx(found["tokens"] / solved, rel=0.02)
