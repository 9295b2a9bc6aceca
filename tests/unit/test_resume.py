"""A training that is stopped at any moment and started again ends as if it had not been stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig, TrainPrmConfig
from rstar_cli.errors import StorageError
from rstar_cli.jsonl import write_rows
from rstar_cli.train.policy import TrainProgress, TrainReport, train_policy
from rstar_cli.train.prm import train_prm
from rstar_cli.train.resume import Saves
from tests.helpers import rstar
from tests.models import save
from tests.unit.test_train_labels import ROWS as LABELLED
from tests.unit.test_train_labels import ROWS as LABELS
from tests.unit.test_train_policy import FAST, OVERFIT, ROWS, fit, read_log, weights
from tests.unit.test_train_prm import PAIRS

pytestmark = pytest.mark.usefixtures("one_thread")


class Stop:
    """Interrupts a training within an update, and counts the updates."""

    def __init__(self, update: int = 0) -> None:
        self.update = update
        self.seen: list[int] = []

    def __call__(self, at: TrainProgress) -> None:
        if at.update == self.update:
            raise KeyboardInterrupt
        self.seen.append(at.update)


def stopped(base: Path, output: Path, update: int, **changes: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(base, output, on_progress=Stop(update), save_minutes=0, **changes)


def states(output: Path) -> set[str]:
    return {path.name for path in (output.parent / f".{output.name}.partial" / "saved").glob("*")}


def same(one: TrainReport, other: TrainReport) -> None:
    assert all(
        getattr(one, name) == getattr(other, name)
        for name in TrainReport.__slots__
        if name not in ("seconds", "output")
    )
    for name in ("README.md", "trainer_state.json", "model.safetensors", "config.json"):
        assert (one.output / name).read_bytes() == (other.output / name).read_bytes(), name
    assert read_log(one.output) == read_log(other.output)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "muon", "dtype": "bfloat16"},
        {"lora_rank": 4},
        OVERFIT,
        {**OVERFIT, "patience": 6},
    ],
    ids=["adamw", "muon", "lora", "held out", "patience"],
)
def test_it_goes_on_where_it_was_stopped(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = {"epochs": 4, "dtype": "float32", **changes}
    whole = fit(base, tmp_path / "whole", **changes)
    stopped(base, tmp_path / "parts", 4, **changes)
    assert "3" in states(tmp_path / "parts")
    stopped(base, tmp_path / "parts", 7, **changes)
    later = Stop()
    parts = fit(base, tmp_path / "parts", on_progress=later, **changes)
    assert later.seen[0] == 7
    same(whole, parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


@pytest.mark.parametrize("objective", ["ppm", "orm", "prm-hard", "prm-soft"])
def test_a_prm_of_any_objective_goes_on_where_it_was_stopped(base: Path, tmp_path: Path, objective: str) -> None:
    rows: Any = PAIRS if objective == "ppm" else LABELLED
    config = TrainPrmConfig(**{**FAST, "objective": objective, "min_updates": 8, "epochs": 0.1, "save_minutes": 0})
    with pytest.raises(KeyboardInterrupt):
        train_prm(rows, model=base, output=tmp_path / "parts", config=config, on_progress=Stop(5))
    later = Stop()
    train_prm(rows, model=base, output=tmp_path / "parts", config=config, on_progress=later)
    assert later.seen == [5, 6, 7, 8]
    train_prm(rows, model=base, output=tmp_path / "whole", config=config)
    for name in ("README.md", "trainer_state.json", "model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-3}, {"seed": 1}, {"epochs": 3}, {"rows": ROWS[1:]}, {"base": 1}]
)
def test_another_training_begins_anew(base: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    stopped(base, tmp_path / "out", 5, epochs=4)
    assert states(tmp_path / "out") == {"4"}
    changes = {"epochs": 4, **change}
    start = save(tmp_path / "other", seed=9) if changes.pop("base", None) else base
    later = Stop()
    fit(start, tmp_path / "out", changes.pop("rows", ROWS), on_progress=later, **changes)
    assert later.seen[0] == 1


def test_how_the_machine_is_used_may_change(base: Path, tmp_path: Path) -> None:
    stopped(base, tmp_path / "out", 5, epochs=4, device="auto")
    later = Stop()
    fit(base, tmp_path / "out", on_progress=later, epochs=4, save_minutes=3.0)
    assert later.seen[0] == 5


def test_a_state_that_is_not_whole_is_not_gone_on_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone before the state's last byte is on the disk: in the Trainer's folder, not among the saved."""
    whole = fit(base, tmp_path / "whole", epochs=4)
    stopped(base, tmp_path / "parts", 3, epochs=4)
    take = Saves.take

    def torn(self: Saves, written: Path, update: int, others: Any) -> None:
        if update == 4:
            (written / "optimizer.pt").write_bytes(b"half")
            raise KeyboardInterrupt
        take(self, written, update, others)

    with monkeypatch.context() as patch:
        patch.setattr(Saves, "take", torn)
        with pytest.raises(KeyboardInterrupt):
            fit(base, tmp_path / "parts", epochs=4, save_minutes=0)
    assert states(tmp_path / "parts") == {"3"}
    same(whole, fit(base, tmp_path / "parts", epochs=4))


def test_a_short_training_saves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Saves, "take", lambda *_: pytest.fail("saved"))
    fit(base, tmp_path / "out", epochs=4)


def test_a_full_disk_is_a_storage_error(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        fit(base, tmp_path / "out", epochs=4, save_minutes=0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "learnt", ["policy", pytest.param("ppm", marks=pytest.mark.slow), pytest.param("prm-hard", marks=pytest.mark.slow)]
)
def test_killed_in_the_middle_it_ends_with_the_same_weights(base: Path, tmp_path: Path, learnt: str) -> None:
    """SIGKILL, at a moment that nobody chooses: no handler runs, no file is closed."""
    rows: list[Any] = {"policy": ROWS, "ppm": PAIRS, "prm-hard": LABELS}[learnt]
    stage = "train-policy" if learnt == "policy" else "train-prm"
    own: dict[str, Any] = {"epochs": 20}
    if learnt != "policy":
        own = {"objective": learnt, "epochs": 0.1, "min_updates": 60}
    settings: dict[str, Any] = {**FAST, "optimizer": "muon", **own}
    write_rows(tmp_path / "rows.jsonl", rows)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [stage, "--input", "rows.jsonl", "--model", str(base), "--output", "parts", "--save-minutes=0", *flags]
    process = subprocess.Popen([sys.executable, "-m", "rstar_cli", *command], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not any(int(name) >= 8 for name in states(parts)):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not parts.exists()
    done = max(map(int, states(parts)))
    assert 8 <= done < 60
    saved = (tmp_path / ".parts.partial" / "saved" / str(done) / "trainer_state.json").read_bytes()
    assert json.loads(saved)["global_step"] == done
    rstar(*command, cwd=tmp_path)
    if stage == "train-policy":
        train_policy(rows, model=base, output=whole, config=TrainPolicyConfig(**settings))
    else:
        train_prm(rows, model=base, output=whole, config=TrainPrmConfig(**settings))
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)
    assert read_log(whole) == read_log(parts)
    assert len(read_log(parts)) == 60
    seconds = [json.loads(line)["seconds"] for line in (parts / "train_log.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)
    before = [entry["seconds"] for entry in json.loads(saved)["log_history"] if "loss" in entry]
    assert seconds[:done] == before  # these updates were not done again
