"""kill -9 at any moment: the run goes on, and ends with the artifacts of one that nothing stopped."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.common import Running, all_gone, artifacts, killed_at, rstar
from tests.faults.runs import Stage, Whole, stage_of

SLOW = pytest.mark.slow


def seconds_of(stage: Stage, whole: Whole, folder: Path) -> float:
    """How long a stage takes here and now."""
    whole.before(stage.name, folder)
    begun = time.monotonic()
    rstar(*stage.command, cwd=folder)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("generate", 2),
        ("verify", 2),
        ("evaluate", 2),
        pytest.param("generate", 50, marks=SLOW),
        pytest.param("verify", 50, marks=SLOW),
        pytest.param("evaluate", 50, marks=SLOW),
        pytest.param("train-policy", 8, marks=SLOW),
        pytest.param("train-prm", 8, marks=SLOW),
    ],
)
def test_killed_at_random_moments(whole: Whole, tmp_path: Path, name: str, kills: int) -> None:
    """Of the first calls and of those that go on; a run that got through is begun anew."""
    stage, rng = stage_of(name), random.Random(f"{name} {kills}")
    took = seconds_of(stage, whole, tmp_path)
    expected = artifacts(whole.after(name))
    run = whole.before(name, tmp_path)
    done = 0
    while done < kills:
        running = Running(*stage.command, cwd=tmp_path)
        time.sleep(rng.uniform(0.0, 1.1 * took))
        ended = running.kill()
        if ended.code == 0:
            assert artifacts(run) == expected
            run = whole.before(name, tmp_path)
            continue
        assert ended.code == -signal.SIGKILL, ended.stderr
        done += 1
    all_gone()
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == expected


def killed_at_each(
    whole: Whole, folder: Path, name: str, kinds: str, *, before: bool, first: int = 1, every: int = 1, most: int = 1000
) -> int:
    """Kill a stage at its first change on the disk, go on; at the next; and so on; how many kills it took."""
    stage, expected = stage_of(name), artifacts(whole.after(name))
    kills = 0
    for event in range(first, most, every):
        run = whole.before(name, folder)
        killed = Running(*stage.command, cwd=folder, **killed_at(event, kinds, before=before)).end()
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.stderr
        kills += 1
        rstar(*stage.command, cwd=folder)
        assert artifacts(run) == expected, f"killed at change {event}"
    return kills


@pytest.mark.parametrize("before", [pytest.param(False, marks=SLOW, id="after"), pytest.param(True, id="instead")])
@pytest.mark.parametrize("name", ["verify", pytest.param("generate", marks=SLOW), pytest.param("evaluate", marks=SLOW)])
def test_killed_between_temporary_file_and_rename(whole: Whole, tmp_path: Path, name: str, before: bool) -> None:
    """At every rename of a stage: the manifest's, the artifacts'."""
    assert killed_at_each(whole, tmp_path, name, "replace", before=before) >= 3


@SLOW
@pytest.mark.parametrize("before", [False, True], ids=["after", "instead"])
@pytest.mark.parametrize("name", ["generate", "verify", "evaluate"])
def test_killed_at_any_other_change(whole: Whole, tmp_path: Path, name: str, before: bool) -> None:
    """Syncs, truncations, removals, and every nineteenth write (`instead`: a row is torn)."""
    assert killed_at_each(whole, tmp_path, name, "fsync,ftruncate,unlink", before=before) > 3
    assert killed_at_each(whole, tmp_path, name, "write", before=before, first=2, every=19) > 2


@SLOW
@pytest.mark.parametrize("name", ["train-policy", "train-prm"])
def test_killed_in_the_middle_of_a_checkpoint(whole: Whole, tmp_path: Path, name: str) -> None:
    """At changes drawn by chance: of a saved state, of the final checkpoint, of the manifest."""
    stage, expected, rng = stage_of(name), artifacts(whole.after(name)), random.Random(name)
    run = whole.before(name, tmp_path)
    for _ in range(6):
        kinds, before = rng.choice(["fsync", "rename,replace", "unlink"]), rng.random() < 0.5
        event = rng.randrange(2, {"fsync": 120, "rename,replace": 12, "unlink": 40}[kinds])
        killed = Running(*stage.command, cwd=tmp_path, **killed_at(event, kinds, before=before)).end()
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.stderr
    rstar(*stage.command, cwd=tmp_path)
    assert artifacts(run) == expected


@pytest.mark.parametrize("name", ["generate", pytest.param("train-policy", marks=SLOW)])
def test_nothing_outlives_its_parent(whole: Whole, tmp_path: Path, name: str) -> None:
    """The parent alone is killed: sandboxes, graders and their children see that."""
    stage, run = stage_of(name), whole.before(name, tmp_path)
    running = Running(*stage.command, cwd=tmp_path)
    running.until(stage.is_under_way(run))
    assert running.kill().code == -signal.SIGKILL
    all_gone()


def test_programs_that_hang_do_not_outlive_it_either(tmp_path: Path) -> None:
    hang = '{"answer": "1", "code": "import time\\nwhile True: time.sleep(1)"}\n'
    (tmp_path / "in.jsonl").write_text(hang * 4)
    running = Running("verify", "--input", "in.jsonl", "--output", "o.jsonl", "--exec-timeout", "100", cwd=tmp_path)
    time.sleep(3)
    assert running.kill().code == -signal.SIGKILL
    all_gone()
    assert not (tmp_path / "o.jsonl").exists()
