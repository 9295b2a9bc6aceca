"""Losses reported elsewhere, and checkpoints pushed to a hub: a stand-in of each service, the real clients."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import SetupError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir
from rstar_cli.options import TrainPlace
from rstar_cli.records import Problem
from rstar_cli.stages.train_policy import train
from rstar_cli.train.policy import TrainProgress
from tests.unit.test_train_policy import FAST, ROWS, fit, read_log

TRACKIO = """
import json
from contextvars import ContextVar
from types import SimpleNamespace
__version__ = "0.30.0"
context_vars = SimpleNamespace(current_space_id=ContextVar("space", default=None))
config = {}
class _Config(dict):
    def update(self, values, allow_val_change=False): super().update(values)
config = _Config()
def _note(**what):
    with open(FILE, "a") as file: file.write(json.dumps(what) + "\\n")
def init(**where):
    print("* Trackio project initialized")
    _note(init=[where["project"], where["name"], where["space_id"]])
def log(values): _note(log=values)
def finish(): _note(finish=True)
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def test_losses_are_reported_by_the_trainers_own_client(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "modules").mkdir()
    told = tmp_path / "told"
    (tmp_path / "modules" / "trackio.py").write_text(TRACKIO.replace("FILE", repr(str(told))))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    report = fit(base, tmp_path / "mine" / "round_1" / "policy", report_to="trackio", held_out=0.3, epochs=2)
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    assert rows[0] == {"init": ["rstar", "mine/round_1/policy", None]}
    losses = {row["log"]["train/global_step"]: row["log"] for row in rows if "train/loss" in row.get("log", {})}
    log = read_log(report.output)
    assert [losses[entry["update"]]["train/loss"] for entry in log] == [entry["loss"] for entry in log]
    assert losses[1]["train/tokens"] == log[0]["tokens"]
    assert sum("eval/loss" in row.get("log", {}) for row in rows) == 4
    assert rows[-1] == {"finish": True}
    assert capsys.readouterr().out == ""  # stdout is for data


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the package tensorboard")
def test_tensorboards_files_lie_in_the_checkpoint_those_before_a_stop_too(base: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(at: TrainProgress) -> None:
        if at.update == 5:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"report_to": "tensorboard", "epochs": 3, "save_minutes": 0}
    with pytest.raises(KeyboardInterrupt):
        fit(base, tmp_path / "out", on_progress=stop, **settings)
    fit(base, tmp_path / "out", **settings)
    events = EventAccumulator(str(tmp_path / "out" / "runs"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    log = read_log(tmp_path / "out")
    assert logged == {entry["update"]: pytest.approx(entry["loss"]) for entry in log}
    assert len(log) == 9


@pytest.mark.parametrize("package", ["tensorboard", "trackio", "wandb"])
def test_a_reporter_that_is_not_installed_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # so it can not be imported
    with pytest.raises(SetupError, match=f"needs the package {package}") as caught:
        fit(base, tmp_path / "out", report_to=package)
    assert caught.value.remedy == f"Run: pip install {package}"
    assert not any(tmp_path.iterdir())


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunDir:
    (tmp_path / "recipe.toml").write_text(f'[run]\nbase = "{base}"\n[eval.test]\ncount = 1\n')
    made = RunDir.create(tmp_path / "run", tmp_path / "recipe.toml")
    made.round(1).root.mkdir(parents=True)
    write_rows(made.round(1).problems, [Problem(id=row.problem_id, problem=row.prompt) for row in ROWS])
    write_rows(made.round(1).sft, ROWS)
    return made


def go(run: RunDir, repo: str | None = "me/policy") -> Any:
    return train(TrainPlace(run=run.root, push_to_hub=repo), TrainPolicyConfig(**FAST), run)


def test_a_checkpoint_is_pushed_whole(run: RunDir, hub: Any) -> None:
    summary = go(run)
    assert summary.notes == [f"Pushed: {hub.url}/me/policy/commit/1"]
    assert hub.made[0]["name"] == "policy"
    assert "private" in (hub.made[0].get("visibility"), *hub.made[0])  # by the client's version
    files = {path.name: path.read_bytes() for path in run.round(1).policy.iterdir()}
    assert {name: data for name, data in hub.files.items() if name != ".gitattributes"} == files


def test_a_push_that_fails_leaves_the_checkpoint_and_can_be_tried_again(
    run: RunDir, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SetupError, match="is trained and written, but not pushed") as caught:
        go(run)
    assert "hf_wrong" not in str(caught.value) + caught.value.remedy
    assert not hub.files
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    summary = go(run)
    assert summary.done_before
    assert "model.safetensors" in hub.files


def test_without_a_network_the_reason_is_told(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    go(run, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    for repo in ("me/policy", "not a name"):
        with pytest.raises(SetupError, match="not pushed"):
            go(run, repo)
