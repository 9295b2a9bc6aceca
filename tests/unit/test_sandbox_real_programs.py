"""Programs that models and people wrote: the sandbox gives what plain Python gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rstar_cli.protocols import ExecuteRequest
from rstar_cli.sandbox import Sandbox
from tests.helpers import shared


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(timeout=30, tree=True) as sandbox:
        yield sandbox


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shared("data", name).read_text().splitlines()]


def plain_python(code: str) -> str:
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout


def check_like_plain_python(sandbox: Sandbox, programs: list[dict[str, Any]]) -> None:
    """Whole programs, completions of several steps, and the fork tree step by step: one text."""
    assert programs
    wholes = sandbox.run_many("\n".join(program["steps"]) for program in programs)
    for program, whole in zip(programs, wholes, strict=True):
        steps, tree = program["steps"], program["id"]
        (chain,) = sandbox.execute([ExecuteRequest((), (tuple(steps),), tree)])[0]
        climbed = [sandbox.execute([ExecuteRequest(tuple(steps[:i]), ((steps[i],),), tree)])[0][0][0] for i in range(5)]
        sandbox.forget(tree)
        assert all(result.ok for result in (whole, *chain, *climbed)), (tree, whole, chain, climbed)
        assert [result.stdout for result in chain] == [result.stdout for result in climbed], tree
        assert whole.stdout == "".join(result.stdout for result in chain) == plain_python("\n".join(steps)), tree


def test_step_programs(sandbox: Sandbox) -> None:
    check_like_plain_python(sandbox, rows("step_programs.jsonl")[1::40])


@pytest.mark.slow
def test_all_step_programs(sandbox: Sandbox) -> None:
    check_like_plain_python(sandbox, rows("step_programs.jsonl"))


def scripts(*, failed: bool) -> list[dict[str, Any]]:
    """Single-turn scripts of models, with the output that was recorded when they ran elsewhere, years ago."""
    return [
        row
        for row in rows("programs.jsonl")
        if row["style"].startswith("script") and row["n_turns"] == 1 and bool(row["error_recorded"]) is failed
    ]


def test_scripts_that_ran(sandbox: Sandbox) -> None:
    programs = scripts(failed=False)
    results = sandbox.run_many(row["code"] for row in programs)
    same = [
        r.ok and r.stdout.strip() == row["stdout_recorded"].strip() for row, r in zip(programs, results, strict=True)
    ]
    assert sum(same) >= 0.98 * len(programs)


@pytest.mark.slow
def test_scripts_that_failed() -> None:
    programs = scripts(failed=True)
    with Sandbox(timeout=10) as sandbox:
        results = list(sandbox.run_many(row["code"] for row in programs))
    same = 0
    for row, result in zip(programs, results, strict=True):
        kind = re.findall(r"\b(?:\w+\.)*(\w+(?:Error|Exception))\b", row["stdout_recorded"])[-1]
        found = "TimeoutError" if result.status == "timeout" else re.split(r"[:\s]", result.error)[0]
        same += kind == found
    assert same >= 0.95 * len(programs)
