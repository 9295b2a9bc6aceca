"""SIGINT and SIGTERM, once and twice: what is in flight is finished, the command to go on is told, nothing is left."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.faults.common import Done, Running, artifacts, rstar, sh
from tests.faults.runs import NAMES, RECIPE, Whole, stage_of

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
QUICK = ("evaluate", "generate", "verify")


def goes_on(done: Done, command: str) -> None:
    assert f"interrupted; what was finished is kept. To go on: rstar {command}\n" in done.stderr, done.stderr


def each(*quick: str) -> list[object]:
    """All stages, those that are not quick among the slow tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", each(*QUICK))
def test_asked_once_a_stage_finishes_what_is_in_flight(whole: Whole, tmp_path: Path, name: str) -> None:
    stage, run = stage_of(name), whole.before(name, tmp_path)
    for number, code in CODES.items():
        done_before = stage.done(run)
        running = Running(*stage.command, cwd=tmp_path)
        running.until(lambda before=done_before: stage.done(run) > max(before, stage.enough))
        running.send(number)
        done = running.end(60)
        assert done.code == code, done.stderr
        goes_on(done, " ".join(stage.command))
        if name != "verify":  # it may be through with its programs by then, and at its last files
            assert "interrupted: finishing the " in done.stderr
        assert stage.done(run) >= max(done_before, stage.enough), "what was finished is there"
        assert not list(run.rglob("*.lock"))
        assert not list(run.rglob("*.tmp"))
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == artifacts(whole.after(name))


def test_interrupted_before_anything_has_begun(tmp_path: Path) -> None:
    """While packages are imported: there is nothing to keep, and a traceback through them tells nothing."""
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path('imported').touch()\ntime.sleep(60)\n")
    running = Running("doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    running.until((tmp_path / "imported").exists)
    running.send(signal.SIGINT)
    done = running.end(10)
    assert done.code == -signal.SIGINT
    assert done.stderr == ""


@pytest.mark.parametrize("name", each("generate"))
@pytest.mark.parametrize("number", CODES)
def test_asked_twice_it_is_out_in_five_seconds(whole: Whole, tmp_path: Path, name: str, number: int) -> None:
    stage, run = stage_of(name), whole.before(name, tmp_path)
    running = Running(*stage.command, cwd=tmp_path)
    running.until(stage.is_under_way(run))
    running.send(number)
    time.sleep(0.1)  # two signals at once are one to the kernel
    running.send(number)
    begun = time.monotonic()
    done = running.end(30)
    assert time.monotonic() - begun < 5
    assert done.code == CODES[number]
    goes_on(done, " ".join(stage.command))
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == artifacts(whole.after(name))


SLEEPER = '{"answer": "1", "code": "import time\\nwhile True: time.sleep(1)"}\n'


@pytest.mark.parametrize("number", CODES)
def test_a_program_that_hangs_holds_nothing_up(tmp_path: Path, number: int) -> None:
    (tmp_path / "in.jsonl").write_text(SLEEPER * 8)
    command = ("verify", "--input", "in.jsonl", "--output", "out.jsonl", "--exec-timeout", "100")
    running = Running(*command, cwd=tmp_path)
    time.sleep(3)
    assert running.process.poll() is None, running.stderr
    running.send(number)
    time.sleep(0.1)  # two signals at once are one to the kernel
    running.send(number)
    begun = time.monotonic()
    done = running.end(30)
    assert time.monotonic() - begun < 5
    assert done.code == CODES[number], done.stderr
    goes_on(done, " ".join(command))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"], "complete or absent"


@pytest.mark.parametrize(
    "path",
    [
        "generate",
        pytest.param("train-policy", marks=pytest.mark.slow),
        pytest.param("evaluate", marks=pytest.mark.slow),
    ],
)
def test_the_loop_ends_and_goes_on(whole: Whole, tmp_path: Path, path: str) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    stage, run = stage_of(path), tmp_path / "r"
    command: tuple[str, ...] = ("evolve", "--run", "r", "--recipe", "recipe.toml")
    if path != "evaluate":
        run, command = whole.before(path, tmp_path), ("evolve", "--run", "r")
    running = Running(*command, cwd=tmp_path)
    running.until(stage.is_under_way(run))
    running.send(signal.SIGTERM)
    done = running.end(60)
    assert done.code == 143
    goes_on(done, " ".join(command))
    stopped_at = stage.done(run)
    assert stopped_at >= stage.enough
    assert not list(run.rglob("*.lock"))
    rstar(*stage.command, cwd=tmp_path)
    folder = f"round_{stage.number}"  # the loop renews report.json, too
    assert artifacts(run / folder) == artifacts(whole.after(path) / folder)


def test_a_job_in_the_background_ignores_sigint_and_heeds_sigterm(whole: Whole, tmp_path: Path) -> None:
    stage, run = stage_of("generate"), whole.before("generate", tmp_path)
    line = (
        f"rstar {' '.join(stage.command)} & "
        f"while ! [ -s r/round_1/{stage.trail} ]; do sleep 0.05; done; "
        "kill -INT $!; sleep 0.5; kill -0 $! || exit 99; kill -TERM $!; wait $!"
    )
    done = sh(line, tmp_path)
    assert done.code == 143, done.stderr
    assert done.stderr.count("interrupted: finishing") == 1
    goes_on(done, " ".join(stage.command))
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == artifacts(whole.after("generate"))
