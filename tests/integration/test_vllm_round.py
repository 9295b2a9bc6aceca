"""Search by a vLLM server of our own, then verification: the commands as a user gives them, with a real model."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from rstar_cli.jsonl import read_rows
from rstar_cli.records import SolutionRow, StopReason, Tree, Verdict
from tests.helpers import rstar
from tests.unit.test_vllm_engine import save_checkpoints, vllm_python  # noqa: F401

SIZES = ["--rollouts", "8", "--max-step-tokens", "48", "--max-tokens", "192", "--max-depth", "10"]
COUNT = 6


def solution(tree: Tree, leaf: int) -> str:
    """The text of a tree's steps down to a leaf."""
    parts = []
    while (node := tree.nodes[leaf]).parent is not None:
        parts.append(node.text)
        leaf = node.parent
    return "".join(reversed(parts))


@pytest.mark.slow
def test_generate_and_verify(vllm_python: str, tmp_path: Path) -> None:  # noqa: F811
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    save_checkpoints(checkpoints)
    made = ["--count", str(COUNT), "--seed", "1", "--levels", "1-3", "--output", "p.jsonl"]
    rstar("problems", "make", *made, cwd=tmp_path)
    where = ["--engine", "vllm-server", "--server-python", vllm_python, "--policy", "embedded"]
    guided = ["--method", "uct", "--prm", str(checkpoints / "prm")]
    for run, more in (("swor", ["--prm", "none"]), ("uct", guided)):
        rstar("generate", "--run", run, "--problems", "p.jsonl", *where, *SIZES, *more, cwd=tmp_path)
        files = tmp_path / run / "round_1"
        trees = list(read_rows(files / "trees.jsonl", Tree))
        assert len(trees) == COUNT
        told = json.loads((files / "manifest.json").read_text())["stages"]["generate"]
        assert told["config"]["few_shot"] == 0, "the packaged model knows steps"
        assert sum(tree.tokens_generated for tree in trees) == told["tokens"]["generated"]
        read = sum(tree.tokens_prefilled + tree.tokens_generated for tree in trees)
        assert 0 < told["tokens"]["prefilled"] < 3 * read, "most of what is asked comes from the server's cache"
        scored = [node.prm_score is not None for tree in trees for node in tree.nodes]
        assert any(scored) == (run == "uct")
    for tree in read_rows(tmp_path / "swor" / "round_1" / "trees.jsonl", Tree):
        check_without_replacement(tree)
    rstar("verify", "--run", "swor", cwd=tmp_path)
    solutions = list(read_rows(tmp_path / "swor" / "round_1" / "solutions.jsonl", SolutionRow))
    assert len({row.problem_id for row in solutions if row.verdict is Verdict.CORRECT}) >= COUNT // 2
    assert (tmp_path / "swor" / "round_1" / "sft.jsonl").stat().st_size


def check_without_replacement(tree: Tree) -> None:
    """No step and no solution was drawn twice; a leaf below which several steps failed comes several times."""
    steps: dict[int | None, list[str]] = defaultdict(list)
    for node in tree.nodes:
        if node.stop is not StopReason.DUPLICATE:
            steps[node.parent].append(node.text)
    assert all(len(texts) == len(set(texts)) for texts in steps.values())
    ended = [rollout.leaf for rollout in tree.rollouts if tree.nodes[rollout.leaf].answer is not None]
    texts = [solution(tree, leaf) for leaf in ended]
    assert len(texts) == len(set(texts))
