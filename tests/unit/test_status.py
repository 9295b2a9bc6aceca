"""What a run has done, is doing, and what comes next."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from rstar_cli.errors import DataError
from rstar_cli.layout import RunDir, write_bytes, write_manifest
from rstar_cli.progress import StageProgress
from rstar_cli.stages.common import StageRecord
from rstar_cli.stages.status import status
from tests.helpers import rstar


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    write_bytes(tmp_path / "r" / "recipe.toml", b"[evolve]\nrounds = 1\n[eval.test]\n[eval.more]\n")
    return RunDir.open(tmp_path / "r")


def note(run: RunDir, number: int, stage: str, state: str = "complete", tokens: int = 0) -> None:
    write_manifest(
        run.round(number).manifest, stage, {"status": state, "seconds": 30.0, "tokens": {"generated": tokens}}
    )


def test_from_the_first_stage_to_the_last(run: RunDir) -> None:
    assert status(run).next_command == run.command("evaluate", 0)
    note(run, 0, "evaluate test greedy", tokens=100)
    note(run, 0, "evaluate more greedy", "running")
    told = status(run)
    assert told.data["rounds"]["0"]["evaluate"] == "running"
    assert told.next_command == run.command("evaluate", 0)
    note(run, 0, "evaluate more greedy", tokens=50)
    assert status(run).next_command == run.command("generate", 1)
    note(run, 1, "generate", "stopped", tokens=7)
    told = status(run)
    assert told.figures["round 1"][0] == "stopped by the budget"
    assert told.next_command == run.command("generate", 1)
    for stage in ("generate", "verify", "train-policy", "train-prm"):
        note(run, 1, stage)
    assert status(run).next_command == run.command("evaluate", 1)
    note(run, 1, "evaluate test greedy")
    assert status(run).next_command == run.command("evaluate", 1), "one of two sets"
    note(run, 1, "evaluate more greedy")
    told = status(run)
    assert told.next_command is None
    assert told.data["seconds"] == 240.0
    assert told.data["tokens"] == 150
    assert told.figures["round 1"] == (*("done, 30 s",) * 4, "done, 60 s")
    assert "All rounds" in told.notes[0]
    assert told.notes[-1] == "In all 4.0 minutes and 150 generated tokens."


def test_a_stage_at_work_tells_how_far_it_is(run: RunDir) -> None:
    record = StageRecord(run.round(1).manifest, "generate", {}, {}, [run.round(1).trees])
    assert record.progress == run.progress
    with StageProgress("generate round 1", 40, done=3, console=Console(file=io.StringIO()), file=record.progress) as at:
        assert status(run).data["at_work"][0]["done"] == 3
        at._written = 0.0  # as two seconds later
        at.update(20, "61% solved")
        told = status(run)
        assert told.notes[:-1] == ["at work: generate round 1: 20 of 40  61% solved  left 0 s"]
        assert told.next_command is None
        assert told.data["at_work"][0]["process"] == os.getpid()
    assert not run.progress.exists()
    assert status(run).data["at_work"] == []


def test_the_dead_and_the_silent(run: RunDir) -> None:
    with StageProgress("verify round 1", 4, console=Console(file=io.StringIO()), file=run.progress):
        left = orjson.loads(run.progress.read_bytes())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_bytes(run.progress, orjson.dumps(left | {"process": gone.pid}))
    assert status(run).data["at_work"] == [], "its process was killed"
    write_bytes(run.progress, orjson.dumps(left | {"host": "elsewhere", "process": gone.pid}))
    assert "last heard of" not in status(run).notes[0]
    old = time.time() - 600
    os.utime(run.progress, (old, old))
    assert status(run).notes[0].endswith("(last heard of 10 min ago)")
    for damaged in (b"", b"[1]", b"{}"):
        write_bytes(run.progress, damaged)
        with pytest.raises(DataError, match="not the progress of a stage"):
            status(run)


def test_outside_a_run_there_is_no_progress(tmp_path: Path) -> None:
    assert StageRecord(tmp_path / "t.jsonl.manifest.json", "generate", {}, {}, [tmp_path / "t.jsonl"]).progress is None


def test_the_command(run: RunDir, tmp_path: Path) -> None:
    done = rstar("status", "--run", str(run.root), cwd=tmp_path)
    assert f"next: {run.command('evaluate', 0)}" in done.stderr
    data = json.loads(rstar("status", "--run", str(run.root), "--json", cwd=tmp_path).stdout)
    assert data["next"] == run.command("evaluate", 0)
    for command in ("status", "report", "show"):
        done = rstar(command, "--run", "nothing", cwd=tmp_path, check=False)
        assert done.returncode == 3
        assert "there is no run at nothing" in done.stderr
        assert "rstar init --run nothing" in done.stderr
        assert not (tmp_path / "nothing").exists(), "looking makes nothing"
