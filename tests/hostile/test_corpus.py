"""The shared corpus of hostile programs: each as a program of its own, then as a step of a tree with live siblings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rstar_cli.protocols import ExecutionResult
from tests.helpers import ROOT
from tests.hostile.common import SECRET, Box, brief

CORPUS = Path(os.environ.get("RSTAR_SHARED", ROOT.parent / "shared"), "data", "hostile.jsonl")
LEAKS = (SECRET, "root:x:0", "SPAWN-OK", "BOUND", "PARENT-MEM", "UNIX\n", "MEMFD-OK", "FORGED", "threads True")
STATUSES = {
    "timeout": {"timeout"},
    "denied": {"denied", "error"},
    "error": {"error", "exit"},
    "killed": {"killed", "memory", "denied"},
}
SAYS_SO = {"os_system": "rc 32512\n"}
"""Runs to its end though it is refused what it wants: it prints the refusal."""
HONEST = [("ok", "1\n")]


def corpus() -> list[object]:
    if not CORPUS.exists():
        return [pytest.param({}, marks=pytest.mark.skip("needs data/hostile.jsonl of the shared data ($RSTAR_SHARED)"))]
    return [pytest.param(row, id=row["id"]) for row in map(json.loads, CORPUS.read_text().splitlines())]


def check(row: dict[str, str], result: ExecutionResult) -> None:
    if row["id"] in SAYS_SO:
        assert result.stdout == SAYS_SO[row["id"]]
    elif row["expect"] in STATUSES:
        assert result.status in STATUSES[row["expect"]], result
    assert result.status != "lost"
    assert not any(leak in result.stdout for leak in LEAKS), result


@pytest.mark.parametrize("row", corpus())
def test_corpus(box: Box, place: dict[str, str], row: dict[str, str]) -> None:
    code = row["code"]
    for name, value in {**place, "ID": row["id"]}.items():
        code = code.replace(f"{{{name}}}", value)
    check(row, box.run(code))
    before, (attack,), after = box.steps(["x = 1"], ["print(x)"], [code], ["print(x)"])
    check(row, attack)
    assert [brief(before), brief(after)] == [HONEST] * 2
    if attack.ok:  # its state is held, and forked from
        box.steps(["x = 1", code], ["print(x)"])
    assert [brief(steps) for steps in box.steps(["x = 1"], ["print(x)"], ["print(x)"])] == [HONEST] * 2
