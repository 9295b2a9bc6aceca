"""The benchmark of the sandbox: its programs run, and its report is whole. Nothing is said of how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rstar_cli.bench.figures import describe, warnings
from rstar_cli.bench.memory import proportional_mb, stopped_descendants
from rstar_cli.bench.programs import DEPTH, StepProgram, bare, mixed, scientific
from rstar_cli.bench.sandbox import PARTS
from rstar_cli.sandbox import Sandbox
from tests.helpers import rstar


@pytest.mark.parametrize("make", [mixed, scientific, bare])
def test_programs_differ_and_have_their_steps(make: Callable[[int], list[StepProgram]]) -> None:
    programs = make(23)
    assert len({program.code for program in programs}) == len({program.id for program in programs}) == 23
    for program in programs:
        assert len(program.steps) == DEPTH
        assert all(step.startswith(f"# Step {i}: ") for i, step in enumerate(program.steps, 1))


def test_three_in_five_use_sympy() -> None:
    assert sum("sympy" in program.code for program in mixed(5)) == 3
    assert sum("sympy" in program.code for program in mixed(40)) == 24
    assert all("sympy" in program.code for program in scientific(9))
    assert not any("sympy" in program.code or "numpy" in program.code for program in bare(9))


def test_every_program_runs() -> None:
    with Sandbox(timeout=60) as sandbox:
        for result in sandbox.run_many(program.code for program in mixed(10)):
            assert result.ok, result.error
            assert result.stdout.count("\n") == DEPTH


def holds_only_positive_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(holds_only_positive_numbers(part) for part in value.values())
    return isinstance(value, int | float) and value > 0


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny run, as a user starts it."""
    done = rstar(
        "bench", "sandbox", "--json", "--programs", "1", "--workers", "1", cwd=tmp_path_factory.mktemp("bench")
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_every_part_is_measured(report: dict[str, Any]) -> None:
    data = report["data"]
    assert list(data) == ["machine", *PARTS]
    assert data["machine"]["workers"] == data["machine"]["programs"] == 1
    for name in PARTS:
        assert holds_only_positive_numbers(data[name]) or (name == "paused_state" and data[name] is None), name
    assert list(data["step_ms_by_depth"]) == ["1", "4", "16"]


def test_states_are_held_where_forks_are_granted(report: dict[str, Any]) -> None:
    data = report["data"]
    paused = data["paused_state"]
    assert (paused is not None) == ("grants" in data["machine"]["layers"])
    if paused is not None:
        assert paused["states"] == 2 * DEPTH, "two candidates a step"
        assert paused["mean_mb"] <= paused["max_mb"]


def test_the_summary_says_the_same(report: dict[str, Any]) -> None:
    figures = describe(report["data"])
    assert report["figures"] == figures
    assert report["data"]["machine"]["isolation"] in figures["isolation"]
    assert "times" in figures["step by step"]


def test_a_busy_machine_is_told(report: dict[str, Any]) -> None:
    machine = {**report["data"]["machine"], "load": 9.0, "cores": 2}
    assert "busy" in warnings({**report["data"], "machine": machine})[0]
    bare_machine = {**machine, "load": 0.0, "layers": ["limits"]}
    assert "prefix replay" in warnings({**report["data"], "machine": bare_machine})[0]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_only_stopped_descendants_are_found(child: subprocess.Popen[bytes]) -> None:
    assert child.pid not in stopped_descendants()
    os.kill(child.pid, 19)
    deadline = time.monotonic() + 5
    while child.pid not in stopped_descendants():
        assert time.monotonic() < deadline
    size = proportional_mb(child.pid)
    assert size is not None
    assert 0 < size < 1000
