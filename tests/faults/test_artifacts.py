"""Artifacts of a run that were damaged or edited by hand: told by place, and never silently other results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.common import rstar, write_problems

SCRIPTED = ("--engine", "scripted", "--exec-workers", "1", "--rollouts", "4", "--method", "uct", "--candidates", "3")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a searched, verified and evaluated round."""
    root = tmp_path_factory.mktemp("made")
    problems = [{"id": f"p{i}", "problem": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(4)]
    write_problems(root / "p.jsonl", problems)
    for args in (
        ("generate", "--problems", "p.jsonl", *SCRIPTED),
        ("verify", "--exec-workers", "1"),
        ("evaluate", "--round", "0", "--benchmark", "p.jsonl", "--samples", "0", *SCRIPTED),
    ):
        rstar(*args, "--run", "run", cwd=root)
    return root


@pytest.fixture
def place(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def unverified(place: Path) -> Path:
    """Make the round one that was searched alone, and whose manifest is lost; returns its trees."""
    folder = place / "run" / "round_1"
    for name in ("manifest.json", "solutions.jsonl", "sft.jsonl", "pairs.jsonl", "step_labels.jsonl"):
        (folder / name).unlink()
    return folder / "trees.jsonl"


def node(row: Row, **changes: object) -> None:
    row["nodes"][2].update(changes)


TREES: dict[str, tuple[Callable[[Row], object], str]] = {
    "text for a number": (lambda row: node(row, visits="often"), "trees.jsonl:2:nodes.2.visits: "),
    "a number for text": (lambda row: node(row, text=5), "trees.jsonl:2:nodes.2.text: "),
    "an unknown word": (lambda row: node(row, stop="gone"), "trees.jsonl:2:nodes.2.stop: "),
    "an unknown field": (lambda row: node(row, luck=1), "trees.jsonl:2:nodes.2.luck: "),
    "no number": (lambda row: node(row, q=float("nan")), "trees.jsonl:2: not valid JSON"),
    "infinite": (lambda row: node(row, prior=float("-inf")), "trees.jsonl:2: not valid JSON"),
    "a parent out of range": (lambda row: node(row, parent=10_000), "node 2 has the parent 10000"),
    "a negative parent": (lambda row: node(row, parent=-1), "node 2 has the parent -1"),
    "its own parent": (lambda row: node(row, parent=2), "node 2 has the parent 2"),
    "a circle": (lambda row: (node(row, parent=3), row["nodes"][3].update(parent=2)), "node 2 has the parent 3"),
    "a second root": (lambda row: node(row, parent=None), "node 2 has the parent None"),
    "another id": (lambda row: node(row, id=7), "node 2 has the id 7"),
    "a rollout to nowhere": (lambda row: row["rollouts"][0].update(leaf=999), "a rollout ends at node 999"),
    "a field missing": (lambda row: row.pop("prompt"), "trees.jsonl:2:prompt: "),
    "an unknown problem": (lambda row: row.update(problem_id="else"), "'else', which is not in problems.jsonl"),
    "a problem twice": (lambda row: row.update(problem_id="p0"), "trees.jsonl:2:problem_id: 'p0' is the problem_id"),
}
FAST = ("text for a number", "a circle", "a problem twice", "no number")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in TREES])
def test_a_damaged_tree(place: Path, name: str) -> None:
    damage, told = TREES[name]
    trees = unverified(place)
    rows = read(trees)
    damage(rows[1])
    write(trees, rows)
    done = rstar("verify", "--exec-workers", "1", "--run", "run", cwd=place, code=3)
    assert told in done.stderr
    assert not (trees.parent / "solutions.jsonl").exists()


@pytest.mark.parametrize("line", [b"{", b"[]", b"\0\0", b'{"problem_id": "\xff"}'])
def test_a_line_that_is_no_row(place: Path, line: bytes) -> None:
    trees = unverified(place)
    lines = trees.read_bytes().splitlines()
    trees.write_bytes(b"\n".join([lines[0], line, *lines[1:]]) + b"\n")
    done = rstar("verify", "--exec-workers", "1", "--run", "run", cwd=place, code=3)
    assert "error: run/round_1/trees.jsonl:2: " in done.stderr


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a manifest"),
    "cut": (b'{"stages": {"generate": {"status": "compl', "not a manifest"),
    "no JSON": (b"status: complete\n", "not a manifest"),
    "an array": (b"[]", "not a manifest"),
    "no stages": (b"{}", "manifest.json:stages: not a manifest"),
    "stages in a row": (b'{"stages": []}', "manifest.json:stages: not a manifest"),
    "a word for a stage": (b'{"stages": {"generate": 5}}', "manifest.json:stages.generate: not a manifest"),
    "a word for settings": (
        b'{"stages": {"verify": {"status": "complete", "config": "all", "outputs": {}}}}',
        "manifest.json:stages.verify.config: not a manifest",
    ),
    "a word for outputs": (b'{"stages": {"generate": {"outputs": {"trees.jsonl": 3}}}}', "manifest.json:stages.gen"),
    "a word for tokens": (b'{"stages": {"generate": {"tokens": {"generated": "x"}}}}', "manifest.json:stages.gen"),
}
COMMANDS = (
    ("verify", "--exec-workers", "1"),
    ("generate", "--problems", "p.jsonl", *SCRIPTED),
    ("status",),
    ("report",),
    ("train-policy",),
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "cut" else pytest.mark.slow) for n in MANIFESTS])
def test_a_damaged_manifest(place: Path, name: str) -> None:
    text, told = MANIFESTS[name]
    (place / "run/round_1/manifest.json").write_bytes(text)
    for command in COMMANDS if name != "cut" else COMMANDS[:3]:
        done = rstar(*command, "--run", "run", cwd=place, code=3)
        assert told in done.stderr
        assert "Restore the file, or remove it" in done.stderr
    assert (place / "run/round_1/manifest.json").read_bytes() == text


EDITS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "trees": ("round_1/trees.jsonl", ("verify",), "trees.jsonl: was changed since `generate` wrote it"),
    "solutions": ("round_1/solutions.jsonl", ("verify",), "solutions.jsonl: was changed since `verify` wrote it"),
    "training rows": ("round_1/sft.jsonl", ("train-policy",), "sft.jsonl: was changed since `verify` wrote it"),
    "answers": (
        "round_0/eval/p.greedy.jsonl",
        ("evaluate", "--round", "0", "--benchmark", "p.jsonl", "--samples", "0", *SCRIPTED),
        "p.greedy.jsonl: was changed since `evaluate p greedy` wrote it",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_artifact_is_not_built_upon(place: Path, name: str) -> None:
    path, command, told = EDITS[name]
    rows = read(place / "run" / path)
    write(place / "run" / path, rows[:-1])
    done = rstar(*command, "--run", "run", cwd=place, code=3)
    assert told in done.stderr
    assert "Restore it, or remove it and run `" in done.stderr
    assert read(place / "run" / path) == rows[:-1], "it is left as it is"


def test_an_edited_answer_of_a_problem(place: Path) -> None:
    path = place / "run/round_1/problems.jsonl"
    rows = read(path)
    rows[0]["answer"] = "17"
    write(path, rows)
    for name in ("solutions.jsonl", "sft.jsonl", "pairs.jsonl", "step_labels.jsonl"):
        (place / "run/round_1" / name).unlink()
    manifest = place / "run/round_1/manifest.json"
    told = json.loads(manifest.read_bytes())
    del told["stages"]["verify"]
    manifest.write_text(json.dumps(told))
    done = rstar("verify", "--exec-workers", "1", "--run", "run", cwd=place, code=3)
    assert "problems.jsonl: was changed since `generate` read it" in done.stderr


def test_an_edited_gold_of_an_evaluation(place: Path) -> None:
    rows = read(place / "p.jsonl")
    rows[0]["answer"] = "17"
    write(place / "p.jsonl", rows)
    args = ("evaluate", "--round", "0", "--benchmark", "p.jsonl", "--samples", "0", *SCRIPTED, "--run", "run")
    done = rstar(*args, cwd=place, code=4)
    assert "problems: [4, " in done.stderr


def test_damaged_figures_of_an_evaluation(place: Path) -> None:
    figures = place / "run/round_0/eval/p.json"
    figures.write_bytes(figures.read_bytes()[:50])
    done = rstar("report", "--run", "run", cwd=place, code=3)
    assert "error: run/round_0/eval/p.json" in done.stderr


RECIPES = {
    "an unknown key": ("[generate]\nrolouts = 3\n", 3, "unknown key in [generate] 'rolouts'"),
    "a wrong type": ('[generate]\nrollouts = "many"\n', 3, "rollouts: "),
    "cut": ("[genera", 3, "recipe.toml: "),
    "another setting": ("[generate]\nexploration = 0.5\n", 4, "exploration: 2.0 -> 0.5"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_an_edited_recipe(place: Path, name: str) -> None:
    text, code, told = RECIPES[name]
    recipe = place / "run" / "recipe.toml"
    recipe.write_text(text)
    done = rstar("generate", "--problems", "p.jsonl", *SCRIPTED, "--run", "run", cwd=place, code=code)
    assert told in done.stderr
