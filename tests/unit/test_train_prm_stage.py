"""The stage of the PRM: which pairs, which start, what is told, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import ConfigMismatchError, DataError, MissingArtifactError, UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir, read_manifest, write_manifest
from rstar_cli.options import TrainPlace
from rstar_cli.records import Problem
from rstar_cli.stages.common import Summary
from rstar_cli.stages.dry_run import dry_run_train_prm
from rstar_cli.stages.train_prm import train_prm as stage
from rstar_cli.train.prm import is_held_out
from tests.unit.test_train_prm import PAIRS, settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunDir:
    """Two rounds with pairs of their own, a policy in the second."""
    import shutil

    made = RunDir.create(tmp_path / "r")
    for number in (1, 2):
        made.round(number).root.mkdir()
        pairs = PAIRS[:12] if number == 1 else PAIRS[12:]
        known = {row.problem_id: Problem(id=row.problem_id, problem=row.prefix[0].text) for row in pairs}
        write_rows(made.round(number).problems, known.values())
        write_rows(made.round(number).pairs, pairs)
    shutil.copytree(base, made.round(2).policy)
    return made


def go(run: RunDir, number: int = 2, **changes: Any) -> Summary:
    return stage(TrainPlace(run=run.root, round=number), settings(**changes), run)


def test_the_stage_trains_on_all_rounds_and_is_done_once(run: RunDir) -> None:
    done = go(run)
    entry = read_manifest(run.round(2).manifest)["train-prm"]
    assert entry["status"] == "complete"
    assert set(entry["inputs"]) == {"pairs of round 1", "pairs of round 2", "policy"}
    assert entry["inputs"]["policy"]["files"]
    assert entry["config"]["model"] == "round 2"
    held_out = sum(is_held_out(row.problem_id, settings()) for row in PAIRS)
    assert entry["counts"]["pairs"] == len(PAIRS) - held_out
    assert entry["counts"]["held-out accuracy"]["all"]["n"] == held_out
    assert f"n = {held_out})" in done.figures["held-out accuracy"]
    assert done.files == [run.round(2).prm]
    assert done.next_command == run.command("evaluate", 2)
    assert (run.round(2).prm / "model.safetensors").exists()

    again = go(run)
    assert again.done_before
    assert again.figures == done.figures
    with pytest.raises(ConfigMismatchError, match="learning_rate"):
        go(run, learning_rate=2e-3)


def test_the_stage_takes_the_last_round_alone_or_another_start(run: RunDir, base: Path) -> None:
    place = TrainPlace(run=run.root, round=1, model=str(base))  # round 1 has no policy
    done = stage(place, settings(data_rounds="last", held_out=0), run)
    entry = read_manifest(run.round(1).manifest)["train-prm"]
    assert set(entry["inputs"]) == {"pairs of round 1"}
    assert entry["counts"]["pairs"] == 12
    assert done.figures["held-out accuracy"] == "not known: no pair was held out"
    place = TrainPlace(run=run.root, round=2)
    told = dry_run_train_prm(place, settings(data_rounds="last"), run)
    assert told.figures["pairs"] + told.figures["pairs held out"] == 12
    assert told.figures["updates"] == 3
    assert not run.round(2).prm.exists()


def test_the_stage_says_what_is_missing_or_stale(run: RunDir) -> None:
    with pytest.raises(MissingArtifactError) as caught:
        go(run, 1)
    assert "rstar train-policy --round 1" in caught.value.remedy
    with pytest.raises(MissingArtifactError) as caught:
        go(run, 3)
    assert "rstar verify --round 3" in caught.value.remedy
    with pytest.raises(UsageError):
        go(run, 0)

    write_manifest(run.round(1).manifest, "generate", {"outputs": {"trees.jsonl": {"rows": 2}}})
    write_manifest(run.round(1).manifest, "verify", {"inputs": {"trees": {"rows": 1}}})
    with pytest.raises(DataError, match="other trees") as stale:
        go(run)
    assert "rstar verify --round 1" in stale.value.remedy

    write_rows(run.round(2).pairs, [])
    with pytest.raises(DataError, match="there is no pair") as empty:
        go(run, data_rounds="last")
    assert empty.value.remedy
    assert not run.round(2).prm.exists()


def test_plain_files_need_no_run(base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    place = TrainPlace(input=tmp_path / "pairs.jsonl", model=str(base), output=tmp_path / "prm")
    done = stage(place, settings(), None)
    assert done.files == [tmp_path / "prm"]
    assert done.headline
    with pytest.raises(UsageError, match="exists already"):
        stage(place, settings(), None)
    with pytest.raises(UsageError, match="go together"):
        stage(TrainPlace(input=tmp_path / "pairs.jsonl"), settings(), None)
