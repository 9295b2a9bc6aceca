"""What every training shares: from a loaded model, settings and a plan of updates to a trained model.

Memory of full fine-tuning: 16 bytes a parameter (float32 weights, gradients, two moments; Muon 12) plus activations,
so 7B needs about 120 GB on its device; LoRA needs 2 bytes a parameter plus the adapters. A model of half a million
parameters on a CPU and one of 7 billion on a GPU take the same path.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli import interrupts
from rstar_cli.adapters import STEPS
from rstar_cli.config import TrainConfig
from rstar_cli.errors import DataError, MemoryFullError, UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.ranks import is_main, is_sharded, world_size
from rstar_cli.train.batches import Update, plan_updates
from rstar_cli.train.checkpoint import BESIDE, Task, stored_dtype
from rstar_cli.train.lora import with_adapters, without_adapters
from rstar_cli.train.machine import Machine
from rstar_cli.train.optimizers import linear_schedule, make_optimizer
from rstar_cli.train.plan_trainer import Report, Setup
from rstar_cli.train.resume import (
    HeldOut,
    Saves,
    best_update,
    held_out_losses,
    identity_of,
    keeper,
    read_history,
    versions,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from rstar_cli.train.checkpoint import Format

LARGE = 1_000_000_000
"""Parameters from which activations are recomputed on a GPU, to save memory."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far training is.

    Attributes:
        update: updates done, from 1.
        updates: updates in all.
        loss: of this update before its weights moved, nats.
        tokens: tokens of rows since the start, padding not counted.
        tokens_per_second: those by the seconds since the start.
    """

    update: int
    updates: int
    loss: float
    tokens: int
    tokens_per_second: float


class TrainLog:
    """Keeps the losses and tells the caller.

    Attributes:
        plan: the updates.
        rows: how many there are.
        tokens: tokens run through the model so far, padding not counted.
        kept: the update after which the weights were as the training gives them out.
        held_out: (update, loss) of each evaluation on the rows kept apart.

    Args:
        plan: the updates.
        lengths: tokens of each row.
        on_progress: is told of each update.
    """

    def __init__(
        self, plan: Sequence[Update], lengths: Sequence[int], on_progress: Callable[[TrainProgress], None] | None
    ) -> None:
        self.plan = plan
        self.tokens = 0
        self.kept = 0
        self.held_out: list[tuple[int, float]] = []
        self.rows = len(lengths)
        self._lengths = lengths
        self._on_progress = on_progress
        self._losses: list[float] = []
        self.start([])

    def start(self, history: Iterable[Mapping[str, Any]]) -> None:
        """The clock starts here.

        Args:
            history: the log of the updates that an earlier process did; the last of them ends its clock.
        """
        done = [entry for entry in history if "loss" in entry]
        self._losses = [entry["loss"] for entry in done]
        self.tokens = self._tokens_before = int(done[-1]["tokens"]) if done else 0
        self._seconds_before = float(done[-1]["seconds"]) if done else 0.0
        self._start = self._last = time.perf_counter()

    def __call__(self, loss: float) -> dict[str, float]:
        """Note an update's loss; gives the tokens and seconds until then.

        Raises:
            DataError: it is not a number.
        """
        update = len(self._losses) + 1
        if not math.isfinite(loss):
            raise DataError(f"the loss is {loss} at update {update}", remedy="Lower --learning-rate.")
        self._losses.append(loss)
        self.tokens += sum(self._lengths[row] for batch in self.plan[update - 1] for row in batch)
        self._last = time.perf_counter()
        if self._on_progress is not None:
            rate = (self.tokens - self._tokens_before) / (self._last - self._start)
            self._on_progress(TrainProgress(update, len(self.plan), loss, self.tokens, rate))
        return {"tokens": self.tokens, "seconds": self.seconds}

    @property
    def updates(self) -> int:
        """Updates done."""
        return len(self._losses)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the updates, those of an earlier process included."""
        return self._seconds_before + self._last - self._start

    @property
    def first_loss(self) -> float:
        """Of the first update, before any training."""
        return self._losses[0]

    @property
    def final_loss(self) -> float:
        """Mean of the last tenth of the updates."""
        last = self._losses[-math.ceil(len(self._losses) / 10) :]
        return sum(last) / len(last)


def make_plan(lengths: Sequence[int], config: TrainConfig, epochs: float, *, packed: bool = False) -> list[Update]:
    """Lay out a training by its settings: see `plan_updates`."""
    return plan_updates(
        lengths,
        epochs=epochs,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        seed=config.seed,
        packed=packed,
        ranks=world_size(),
    )


def loaded_dtype(config: TrainConfig, machine: Machine) -> Format:
    """Number format to load the weights in; None is the one they are stored in.

    Weights that move must be float32: at the paper's learning rate bfloat16 would round most updates away.

    Raises:
        UsageError: four bits, and no adapters to train on top of them.
    """
    import torch

    if config.dtype == "4bit":
        if not config.lora_rank:
            raise UsageError("--dtype 4bit trains LoRA adapters alone", remedy="Give --lora-rank 16.")
        return "4bit"
    return None if config.lora_rank and machine.bfloat16 else torch.float32


def check_ids(rows: Iterable[Sequence[int]], net: PreTrainedModel) -> None:
    """Refuse ids beyond the embedding table: on a GPU they are an assertion, and no message.

    Raises:
        DataError: names the id.
    """
    known, seen = net.get_input_embeddings().weight.shape[0], max(max(ids) for ids in rows)
    if seen >= known:
        raise DataError(
            f"the rows hold token id {seen}, the model knows {known} tokens",
            remedy="The checkpoint's tokenizer is another model's: use the one that the model was made with.",
        )


def is_held_out(problem_id: str, config: TrainConfig) -> bool:
    """Whether a problem's rows are kept apart: by its id and the seed alone, whatever the other problems are."""
    drawn = blake2b(f"{config.seed}:{problem_id}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") < config.held_out * 2**64


def fit(
    net: PreTrainedModel,
    log: TrainLog,
    make_trainer: Callable[[PreTrainedModel, Setup], Trainer],
    *,
    origin: str | Path,
    task: Task,
    config: TrainConfig,
    machine: Machine,
    work: Path,
    data: str,
    held_out: HeldOut | None = None,
    merge: bool = True,
) -> PreTrainedModel:
    """Take a model through the log's plan, or through what an earlier process left of it.

    What `save_checkpoint` puts beside the model is left in the workspace: `trainer_state.json`, and the log by update
    as `train_log.jsonl`.

    Args:
        net: the model as it was loaded.
        log: is told each update's loss.
        make_trainer: makes the trainer of a model (with LoRA: with its adapters).
        origin: where the model was loaded from.
        task: kind of model, as LoRA's library calls it.
        config: settings.
        machine: where and how to compute.
        work: the workspace of this training.
        data: `fingerprint` of the rows; only a training on the same rows is gone on with.
        held_out: rows kept apart, by whose loss the weights are chosen; None: the last weights are the result.
        merge: merge adapters into the model.

    Returns:
        The trained model, in the number format that its origin is stored in; with adapters only where they are not to
        be merged.

    Raises:
        DataError: a loss that is not a number.
        MemoryFullError: out of device memory.
        StorageError: a state can't be saved.
    """
    import torch

    try:
        if config.dtype != "4bit" and not is_sharded():  # is there already, or goes there in parts
            net.to(machine.device)
        torch.manual_seed(config.seed)
        if config.lora_rank:
            net = with_adapters(net, config, task)
        setup = _setup(net, log, config, machine, work, held_out)
        trainer = make_trainer(net, setup)
        with trainer.args.main_process_first(local=False):
            saves = Saves(work, _told(log, origin, config, data))
        keeps = keeper(saves, setup.scratch, config.save_minutes, held_out)
        trainer.add_callback(keeps)
        with interrupts.finishing("the update under way, and saving it", None):
            _train(trainer, log, saves)
        if keeps.interrupted:
            interrupts.end()
    except torch.OutOfMemoryError as error:
        raise MemoryFullError(
            f"out of memory on {machine.device} at {config.batch_tokens:,} tokens a micro-batch",
            remedy="Lower --batch-tokens, or give --lora-rank 16: it needs an eighth of the memory.",
        ) from error
    if is_main():
        _write_log(trainer.state, log, work / BESIDE)
    trained: PreTrainedModel = without_adapters(trainer.model, config, task, work) if merge else trainer.model
    setattr(trained.config, STEPS, True)  # it knows the step format now: no worked examples before a problem
    return trained.to(stored_dtype(origin, trust_remote_code=config.trust_remote_code)) if merge else trained


def _told(log: TrainLog, origin: str | Path, config: TrainConfig, data: str) -> dict[str, Any]:
    """What the result of a training hangs on; an update is the same sum however its rows are cut into micro-batches."""
    return {
        "config": {name: value for name, value in config.identity().items() if name != "batch_tokens"},
        "model": identity_of(origin),
        "data": data,
        "updates": len(log.plan),
        "versions": versions(),
    }


def _train(trainer: Any, log: TrainLog, saves: Saves) -> None:
    """From the newest saved state to the end, then to the weights of the least held-out loss, where there is one."""
    newest = saves.newest
    log.start(read_history(newest) if newest else [])
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    log.held_out = held_out_losses(trainer.state.log_history)
    log.kept = best_update(log.held_out) if log.held_out else log.updates
    if log.kept < log.updates:
        trainer._load_from_checkpoint(str(saves.of(log.kept)))


def _write_log(state: Any, log: TrainLog, folder: Path) -> None:
    """Write the Trainer's state, clock times left out, and the log by update, clock times and all.

    To the Trainer the whole plan is one epoch: what is written counts passes over the rows.
    """
    folder.mkdir(exist_ok=True)
    passes = sum(len(batch) for update in log.plan for batch in update) / log.rows
    history = [entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry]
    apart = dict(log.held_out)
    write_rows(
        folder / "train_log.jsonl",
        [
            {
                "update": entry["step"],
                **{key: entry[key] for key in ("loss", "learning_rate", "grad_norm", "tokens", "seconds")},
                **({"held_out_loss": apart[entry["step"]]} if entry["step"] in apart else {}),
            }
            for entry in history
            if "loss" in entry
        ],
    )
    told = [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]
    state.log_history = [{**entry, "epoch": entry["epoch"] * passes} for entry in told]
    state.epoch, state.num_train_epochs = state.epoch * passes, math.ceil(passes)
    state.stateful_callbacks = {}  # flags of the loop, which ended
    state.save_to_json(str(folder / "trainer_state.json"))


def _setup(
    net: PreTrainedModel, log: TrainLog, config: TrainConfig, machine: Machine, work: Path, held_out: HeldOut | None
) -> Setup:
    optimizer = make_optimizer(
        net, config.optimizer, learning_rate=config.learning_rate, weight_decay=config.weight_decay
    )
    return Setup(
        plan=log.plan,
        machine=machine,
        checkpointing=machine.device == "cuda" and sum(p.numel() for p in net.parameters()) >= LARGE,
        optimizers=(optimizer, linear_schedule(optimizer, len(log.plan), config.warmup)),
        seed=config.seed,
        scratch=work / "trainer",
        on_update=log,
        held_out=held_out.batches if held_out is not None else (),
        report=None
        if config.report_to == "none"
        else Report(config.report_to, _run_name(work), work / BESIDE / "runs"),
    )


def _run_name(work: Path) -> str:
    """How reports name a training: by its output's last three folders, as `mine/round_1/policy`."""
    *_, run, number = ("", *work.absolute().parent.parts)
    return f"{run}/{number}/{work.name[1:].removesuffix('.partial')}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' own bars, logs and warnings: the caller shows progress and says what matters.

    What they print nonetheless goes to stderr: stdout is for data.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def card_base(model: str | Path) -> str:
    """How a model card names what it was trained from: without the machine's folders."""
    return "/".join(Path(model).parts[-2:])


def card_table(head: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of a model card."""
    return "\n".join([f"| {head} | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
