"""Two processes on one run: the second is told who is at work, and touches nothing."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.common import Running, artifacts, rstar
from tests.faults.runs import RECIPE, Whole, stage_of


def holder(stderr: str) -> tuple[int, str]:
    """(process, host) that a refusal names."""
    found = re.search(r"error: process (\d+) on (\S+) is at work on .*\nLet it end, or stop it", stderr)
    assert found, stderr
    return int(found[1]), found[2]


@pytest.mark.parametrize(
    "name",
    ["generate", *(pytest.param(name, marks=pytest.mark.slow) for name in ("verify", "evaluate", "train-policy"))],
)
def test_a_second_process_on_a_stage_is_refused(whole: Whole, tmp_path: Path, name: str) -> None:
    stage, run = stage_of(name), whole.before(name, tmp_path)
    first = Running(*stage.command, cwd=tmp_path)
    first.until(lambda: bool(list(run.glob(".*.lock"))))
    refused = rstar(*stage.command, cwd=tmp_path, code=6)
    assert holder(refused.stderr) == (first.process.pid, socket.gethostname())
    assert f"is at work on {name} of round {stage.number} of r" in refused.stderr
    assert first.end().code == 0
    assert artifacts(run) == artifacts(whole.after(name)), "and the lock's file is gone"


def test_two_loops_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    first = Running("evolve", "--run", "r", "--recipe", "recipe.toml", cwd=tmp_path)
    first.until((tmp_path / "r/.evolve.lock").exists)
    refused = rstar("evolve", "--run", "r", cwd=tmp_path, code=6)
    assert holder(refused.stderr)[0] == first.process.pid
    assert "is at work on evolve of r" in refused.stderr
    first.kill()


def test_another_stage_goes_on_beside_it(whole: Whole, tmp_path: Path) -> None:
    """verify while generate runs: there are no trees yet; evaluate of round 0: it has nothing to do with generate."""
    stage, run = stage_of("generate"), whole.before("generate", tmp_path)
    first = Running(*stage.command, cwd=tmp_path)
    first.until(stage.is_under_way(run))
    early = rstar("verify", "--round", "1", "--run", "r", cwd=tmp_path, code=3)
    assert "Run: rstar generate --round 1 --run r" in early.stderr
    rstar("evaluate", "--round", "0", "--run", "r", cwd=tmp_path)
    assert first.end().code == 0
    assert artifacts(run / "round_1") == artifacts(whole.after("generate") / "round_1")


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_a_stale_lock_is_no_obstacle(whole: Whole, tmp_path: Path, host: str) -> None:
    """Its process is dead, here or on the machine that the job ran on before: the kernel holds no lock for it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = whole.before("verify", tmp_path)
    (run / ".round_1.verify.lock").write_text(json.dumps({"process": gone.pid, "host": host}))
    rstar(*stage_of("verify").command, cwd=tmp_path)
    assert artifacts(run) == artifacts(whole.after("verify"))


def test_outside_a_run_an_output_has_one_writer(tmp_path: Path) -> None:
    rstar("problems", "make", "--count", "60", "--output", "p.jsonl", cwd=tmp_path)
    search = ("generate", "--engine", "scripted", "--problems", "p.jsonl", "--in-flight", "2")
    first = Running(*search, "--output", "t.jsonl", cwd=tmp_path)
    first.until((tmp_path / ".t.jsonl.lock").exists)
    refused = rstar(*search, "--output", "t.jsonl", cwd=tmp_path, code=6)
    assert holder(refused.stderr)[0] == first.process.pid
    rstar(*search, "--output", "u.jsonl", cwd=tmp_path)
    assert first.end().code == 0
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "u.jsonl").read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".jsonl", ".jsonl", ".jsonl"]
