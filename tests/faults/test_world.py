"""What happens around a run: a clock that jumps, a reader that leaves, links, an engine that dies, one that refuses."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.common import INJECTED, Running, artifacts, lines, manifest_of, rstar, sh, write_problems
from tests.faults.runs import Whole, stage_of

SLOW = pytest.mark.slow
JUMPS = {"PYTHONPATH": str(INJECTED), "RSTAR_TEST_CLOCK": "1"}


@pytest.mark.parametrize(
    "name", ["generate", *(pytest.param(n, marks=SLOW) for n in ("verify", "evaluate", "train-prm"))]
)
def test_a_clock_that_jumps_changes_nothing(whole: Whole, tmp_path: Path, name: str) -> None:
    stage, run = stage_of(name), whole.before(name, tmp_path)
    rstar(*stage.command, cwd=tmp_path, **JUMPS)
    assert artifacts(run) == artifacts(whole.after(name))
    told = manifest_of(run, stage.number)
    assert all(0 <= entry["seconds"] < 300 for entry in told.values())


@pytest.mark.parametrize(
    "line",
    [
        "rstar problems make --count 3000 --output -",
        "rstar problems list",
        "rstar --help",
        "rstar status --run r --json",
        "rstar show --run r --round 1",
        "rstar verify --input rows.jsonl --output -",
    ],
)
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_leaves(whole: Whole, tmp_path: Path, line: str, reader: str) -> None:
    whole.before("verify", tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"answer": "1", "prediction": "1"}\n' * 3000)
    done = sh(f"({line}; echo $? > code) | {reader}", tmp_path)
    assert int((tmp_path / "code").read_text()) in (0, 141), done.stderr
    assert "rror" not in done.stderr
    assert "Exception" not in done.stderr


def test_nobody_reads_what_a_stage_says(whole: Whole, tmp_path: Path) -> None:
    """stderr is closed: what it says is lost, what it does is not."""
    stage, run = stage_of("generate"), whole.before("generate", tmp_path)
    sh(f"(rstar {' '.join(stage.command)}; echo $? > code) 2>&1 | true", tmp_path)
    assert int((tmp_path / "code").read_text()) in (0, 141)
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == artifacts(whole.after("generate"))


def test_a_linked_run_and_a_linked_output(whole: Whole, tmp_path: Path) -> None:
    there = tmp_path / "disk"
    run = whole.before("verify", there)
    (tmp_path / "r").symlink_to(run)
    (run / "round_1/sft.jsonl").symlink_to(there / "sft.jsonl")
    rstar(*stage_of("verify").command, cwd=tmp_path)
    assert (tmp_path / "r").is_symlink()
    assert (run / "round_1/sft.jsonl").is_symlink()
    assert artifacts(run) == artifacts(whole.after("verify"))
    problems = [{"id": "a", "problem": "What is 2 plus 3?", "answer": "5"}]
    write_problems(tmp_path / "p.jsonl", problems)
    (tmp_path / "t.jsonl").symlink_to(there / "trees.jsonl")
    rstar("generate", "--engine", "scripted", "--problems", "p.jsonl", "--output", "t.jsonl", cwd=tmp_path)
    assert (tmp_path / "t.jsonl").is_symlink()
    assert lines(there / "trees.jsonl") == 1


def test_a_sandbox_that_is_killed_is_started_again(whole: Whole, tmp_path: Path) -> None:
    """Its supervisor is killed in the middle of a search, again and again."""
    import psutil

    stage, run = stage_of("generate"), whole.before("generate", tmp_path)
    running = Running(*stage.command, cwd=tmp_path)
    killed = 0
    for rows in (3, 30, 60):
        running.until(lambda least=rows: stage.done(run) >= least)
        for child in psutil.Process(running.process.pid).children():
            if any("supervisor" in part for part in child.cmdline()):
                child.send_signal(signal.SIGKILL)
                killed += 1
    assert running.end().code == 0
    assert killed >= 3
    assert artifacts(run) == artifacts(whole.after("generate"))


def test_a_grader_that_is_killed_is_started_again(tmp_path: Path) -> None:
    import psutil

    rows = [{"answer": f"\\frac{{{i}}}{{7}}", "prediction": f"{i}x/(7x)"} for i in range(1, 60)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    running = Running("verify", "--input", "in.jsonl", "--output", "-", cwd=tmp_path)
    killed = []

    def graders() -> bool:
        if running.stdout.count("\n") < 5:  # one that is killed at its start tells of a machine that is too small
            return False
        found = [c for c in psutil.Process(running.process.pid).children() if "rstar_cli.grader.worker" in c.cmdline()]
        for child in found:
            child.send_signal(signal.SIGKILL)
            killed.append(child.pid)
        return bool(found)

    running.until(graders)
    done = running.end()
    assert done.code == 0, done.stderr
    assert killed
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(rows)
    assert all(row["verdict"] == "correct" or row["decided_by"] == "crash" for row in told), "never a wrong verdict"
