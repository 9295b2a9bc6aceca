"""The stage: which rows, which start, what is told, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import ConfigMismatchError, MissingArtifactError, UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.options import TrainPlace
from rstar_cli.records import Problem
from rstar_cli.report.loss import draw_loss
from rstar_cli.stages.common import Summary
from rstar_cli.stages.dry_run import dry_run_train
from rstar_cli.stages.train_policy import train
from tests.models import save
from tests.unit.test_train_policy import FAST, ROWS, fit, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    base = save(tmp_path / "base")
    (tmp_path / "recipe.toml").write_text(f'[run]\nbase = "{base}"\n[eval.test]\ncount = 1\n')
    made = RunDir.create(tmp_path / "run", tmp_path / "recipe.toml")
    for number, rows in ((1, ROWS[:6]), (2, ROWS[6:])):
        made.round(number).root.mkdir(parents=True)
        write_rows(made.round(number).problems, [Problem(id=row.problem_id, problem=row.prompt) for row in rows])
        write_rows(made.round(number).sft, rows)
    return made


def stage(run: RunDir, number: int, **changes: Any) -> Summary:
    return train(TrainPlace(run=run.root, round=number), TrainPolicyConfig(**{**FAST, **changes}), run)


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(bool((a[key] == b[key]).all()) for key in a)


def test_rows_of_all_rounds_train_the_base(run: RunDir, tmp_path: Path) -> None:
    stage(run, 1)
    summary = stage(run, 2)
    assert summary.data["rows"] == 12
    fit(tmp_path / "base", tmp_path / "by hand", ROWS)
    assert equal(run.round(2).policy, tmp_path / "by hand")


def test_the_last_rounds_rows_train_the_previous_policy(run: RunDir, tmp_path: Path) -> None:
    first = stage(run, 1, start="previous", data_rounds="last")
    assert first.data["start"] == str(tmp_path / "base")
    summary = stage(run, 2, start="previous", data_rounds="last")
    assert (summary.data["rows"], summary.data["start"]) == (6, "round 1")
    fit(tmp_path / "base", tmp_path / "one", ROWS[:6], start="previous")
    fit(tmp_path / "one", tmp_path / "two", ROWS[6:], start="previous")
    assert equal(run.round(2).policy, tmp_path / "two")
    entry = read_manifest(run.round(2).manifest)["train-policy"]
    assert list(entry["inputs"]) == ["sft of round 2", "previous policy"]
    assert entry["config"]["model"] == "round 1"
    assert stage(run, 2, start="previous", data_rounds="last").done_before
    with pytest.raises(ConfigMismatchError, match="start: 'previous' -> 'base'"):
        stage(run, 2, data_rounds="last")


def test_a_previous_policy_that_is_not_there_is_asked_for(run: RunDir) -> None:
    with pytest.raises(MissingArtifactError) as caught:
        stage(run, 2, start="previous")
    assert "rstar train-policy --round 1" in caught.value.remedy
    with pytest.raises(MissingArtifactError):
        dry_run_train(TrainPlace(run=run.root, round=2), TrainPolicyConfig(start="previous"), run)
    told = dry_run_train(TrainPlace(run=run.root, round=2), TrainPolicyConfig(data_rounds="last"), run)
    assert told.figures["rows"] == 6


def test_outside_a_run_nothing_is_previous(run: RunDir, tmp_path: Path) -> None:
    place = TrainPlace(input=run.round(1).sft, output=tmp_path / "out", model=str(tmp_path / "base"))
    with pytest.raises(UsageError, match="--start previous"):
        train(place, TrainPolicyConfig(**FAST, start="previous"), None)


def test_the_held_out_loss_is_told(run: RunDir) -> None:
    stage(run, 1)
    summary = stage(run, 2, held_out=0.3)
    told = json.loads((run.round(2).policy / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in told["log_history"] if "eval_loss" in entry}
    assert summary.data["held-out loss"] == round(losses[summary.data["weights of update"]], 4)
    assert summary.data["rows"] + summary.data["rows held out"] == 12
    figure = run.round(2).policy / "loss.png"
    before = figure.read_bytes()
    assert before.startswith(b"\x89PNG")
    assert draw_loss(run.round(2).policy, "token") == figure
    assert figure.read_bytes() == before
    figure.unlink()  # as where a process was killed just before it
    assert stage(run, 2, held_out=0.3).done_before
    assert figure.read_bytes() == before
