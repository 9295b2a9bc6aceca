"""A training under way is saved now and then, so that a killed one goes on where it was.

In the training's workspace, `saved/N` is the state after update N as the Trainer writes it: weights as safetensors,
optimizer, schedule, random numbers, log. The Trainer writes it elsewhere; once all of it is on the disk it is moved
here in one rename, so what is here is whole unless the disk or a hand damaged it since. Kept are the newest one and,
with held-out rows, the one of least loss.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from rstar_cli.interrupts import asked
from rstar_cli.jsonl import digest
from rstar_cli.layout import write_bytes
from rstar_cli.ranks import agree, is_main, wait
from rstar_cli.train.batches import Update
from rstar_cli.train.checkpoint import BESIDE, LOCK, SAVED, sync

logger = logging.getLogger(__name__)

SIZES = "sizes.json"
"""In a saved state, the size of each of its files: it is whole where all are there in that size."""
SAVING_SHARE = 0.05
"""Share of the time that saving takes at most: a state has 12 bytes a parameter, 84 GB for 7B."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows kept apart, and what they decide.

    Attributes:
        batches: the rows as micro-batches, numbered as the plan's.
        at: updates after which their loss is computed.
        patience: such evaluations in a row without a lower loss that end the training; 0: none do.
    """

    batches: Update
    at: frozenset[int]
    patience: int


class Saves:
    """The saved states of one training in its workspace.

    Whatever an earlier process left there is removed, but for whole states of this very training. Of several processes
    the main one alone touches the disk.

    Args:
        work: the workspace.
        training: what the training's result hangs on, as JSON holds it.
    """

    def __init__(self, work: Path, training: Mapping[str, Any]) -> None:
        self._folder = work / SAVED
        if not is_main():
            return
        name = work / "training.json"
        told = json.dumps(training, sort_keys=True).encode()
        same = name.exists() and name.read_bytes() == told
        for left in work.iterdir():
            if left.name != LOCK and not (same and left in (self._folder, name, work / BESIDE)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_bytes(name, told)
        self._drop_damaged()

    def of(self, update: int) -> Path:
        """The state after an update."""
        return self._folder / str(update)

    @property
    def newest(self) -> Path | None:
        """The last state that was saved."""
        numbers = [int(path.name) for path in self._folder.glob("*")]
        return self.of(max(numbers)) if numbers else None

    def _drop_damaged(self) -> None:
        """Pass a damaged state over for the one before it, if there is one, and tell of it."""
        for path in list(self._folder.glob("*")):
            if not self._is_whole(int(path.name)):
                logger.warning("%s is damaged, and passed over: the training goes on from before it", path)
                shutil.rmtree(path)

    def _is_whole(self, update: int) -> bool:
        """Whether a state, and that of the least held-out loss by then, has all its files in their sizes."""
        state = self.of(update)
        try:
            sizes = json.loads((state / SIZES).read_bytes())
            if not all((state / name).stat().st_size == size for name, size in sizes.items()):
                return False
            losses = held_out_losses(read_history(state))
        except (OSError, ValueError, AttributeError, LookupError):
            return False
        best = best_update(losses) if losses else update
        return best == update or self._is_whole(best)

    def take(self, written: Path, update: int, others: Iterable[int]) -> None:
        """Move a state here, and remove those that are no longer of use.

        Args:
            written: its directory.
            update: after which it was written.
            others: updates whose states are kept beside it.
        """
        wait()  # for what the others have to write of it
        if not is_main():
            return
        sizes = {str(path.relative_to(written)): path.stat().st_size for path in written.rglob("*") if path.is_file()}
        (written / SIZES).write_text(json.dumps(sizes))
        for path in [*written.rglob("*"), written]:
            sync(path)
        self._folder.mkdir(exist_ok=True)
        written.rename(self.of(update))
        sync(self._folder)
        sync(self._folder.parent)
        kept = {str(number) for number in (update, *others)}
        for path in self._folder.glob("*"):
            if path.name not in kept:
                shutil.rmtree(path)


def fingerprint(*columns: Sequence[object]) -> str:
    """32 hex digits of training data: equal data, equal digits."""
    made = blake2b(digest_size=16)
    for column in columns:
        for row in column:
            made.update(repr(row).encode())
            made.update(b"\n")
        made.update(b"\0")
    return made.hexdigest()


def identity_of(model: str | Path) -> dict[str, str]:
    """What tells a start of training from another: the hashes of its files, or the hub id."""
    files = sorted(path for path in Path(model).glob("*") if path.suffix in (".json", ".safetensors"))
    return {path.name: digest(path).sha256 for path in files} or {"hub": str(model)}


def versions() -> dict[str, str]:
    """Of the libraries that saved states hang on."""
    return {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")}


def keeper(saves: Saves, scratch: Path, minutes: float, held_out: HeldOut | None) -> Any:
    """A callback of the Trainer's that saves its state, has the held-out rows evaluated, and stops when they say so.

    It stops, with its state saved, when a signal says so, too; then its `interrupted` is true.

    Args:
        saves: takes the states.
        scratch: where the Trainer writes them.
        minutes: between two, at least; 0: after every update.
        held_out: rows kept apart.
    """
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._last = time.monotonic()
            self._wait = 60 * minutes
            self.interrupted = False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ARG002
            """Save where it is time, or the last one; evaluate where that is asked for."""
            self._asked = time.monotonic()
            ends = state.global_step == state.max_steps
            self.interrupted = agree(asked() and not ends)
            control.should_training_stop |= self.interrupted
            control.should_save = self.interrupted or agree(not ends and self._asked - self._last >= self._wait)
            control.should_evaluate = held_out is not None and state.global_step in held_out.at

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ARG002
            """Save the best weights so far; stop after too long without better ones."""
            losses = held_out_losses(state.log_history)
            best = best_update(losses)
            control.should_save |= best == state.global_step < state.max_steps
            late = sum(update > best for update, _ in losses)
            if held_out is not None and 0 < held_out.patience <= late:
                control.should_training_stop = True
                control.should_save = False  # a state from which one would go on past this stop

        def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ARG002
            """Take over what the Trainer wrote."""
            losses = held_out_losses(state.log_history)
            others = [best_update(losses)] if losses else []
            saves.take(scratch / f"checkpoint-{state.global_step}", state.global_step, others)
            self._last = time.monotonic()
            if minutes:
                self._wait = max(60 * minutes, (self._last - self._asked) / SAVING_SHARE)

    return Keeper()


def held_out_losses(history: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(update, loss on the held-out rows) from a Trainer's log."""
    return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]


def best_update(losses: Sequence[tuple[int, float]]) -> int:
    """The first update of the least loss."""
    return min(losses, key=lambda told: told[1])[0]


def read_history(state: Path) -> list[dict[str, Any]]:
    """The log of a saved state."""
    history: list[dict[str, Any]] = json.loads((state / "trainer_state.json").read_bytes())["log_history"]
    return history
