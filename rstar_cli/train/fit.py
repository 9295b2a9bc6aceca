"""What every training shares: from a loaded model, settings and a plan of updates to a trained model.

Memory of full fine-tuning: 16 bytes a parameter (float32 weights, gradients, two moments; Muon 12) plus activations,
so 7B needs about 120 GB on its device; LoRA needs 2 bytes a parameter plus the adapters. A model of half a million
parameters on a CPU and one of 7 billion on a GPU take the same path.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rstar_cli.config import TrainConfig
from rstar_cli.errors import DataError, SetupError
from rstar_cli.train.batches import Update, plan_updates
from rstar_cli.train.checkpoint import stored_dtype
from rstar_cli.train.machine import Machine
from rstar_cli.train.optimizers import linear_schedule, make_optimizer
from rstar_cli.train.plan_trainer import Setup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

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
        tokens: tokens run through the model so far, padding not counted.

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
        self._lengths = lengths
        self._on_progress = on_progress
        self._losses: list[float] = []
        self.start()

    def start(self) -> None:
        """The clock starts here."""
        self._start = self._last = time.perf_counter()

    def __call__(self, loss: float) -> None:
        """Note an update's loss.

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
            rate = self.tokens / (self._last - self._start)
            self._on_progress(TrainProgress(update, len(self.plan), loss, self.tokens, rate))

    @property
    def seconds(self) -> float:
        """Wall-clock time of the updates."""
        return self._last - self._start

    @property
    def first_loss(self) -> float:
        """Of the first update, before any training."""
        return self._losses[0]

    @property
    def final_loss(self) -> float:
        """Mean of the last tenth of the updates."""
        last = self._losses[-math.ceil(len(self._losses) / 10) :]
        return sum(last) / len(last)


def make_plan(lengths: Sequence[int], config: TrainConfig, epochs: float) -> list[Update]:
    """Lay out a training by its settings: see `plan_updates`."""
    return plan_updates(
        lengths, epochs=epochs, batch_size=config.batch_size, batch_tokens=config.batch_tokens, seed=config.seed
    )


def loaded_dtype(config: TrainConfig, machine: Machine) -> torch.dtype | None:
    """Number format to load the weights in; None is the one they are stored in.

    Weights that move must be float32: at the paper's learning rate bfloat16 would round most updates away.
    """
    import torch

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


def fit(
    net: PreTrainedModel,
    log: TrainLog,
    make_trainer: Callable[[PreTrainedModel, Setup], Trainer],
    *,
    origin: str | Path,
    task: Literal["CAUSAL_LM", "SEQ_CLS"],
    config: TrainConfig,
    machine: Machine,
    work: Path,
) -> PreTrainedModel:
    """Take a model through the log's plan.

    Args:
        net: the model as it was loaded.
        log: is told each update's loss.
        make_trainer: makes the trainer of a model (with LoRA: with its adapters).
        origin: where the model was loaded from.
        task: kind of model, as LoRA's library calls it.
        config: settings.
        machine: where and how to compute.
        work: directory for the trainer's own use.

    Returns:
        The trained model, without adapters, in the number format that its origin is stored in.

    Raises:
        DataError: a loss that is not a number.
        SetupError: out of device memory.
    """
    import torch

    try:
        net.to(machine.device)
        torch.manual_seed(config.seed)
        if config.lora_rank:
            net = _with_adapters(net, config.lora_rank, task)
        trainer = make_trainer(net, _setup(net, log, config, machine, work))
        log.start()
        trainer.train()
    except torch.OutOfMemoryError as error:
        raise SetupError(
            f"out of memory on {machine.device}",
            remedy="Lower --batch-tokens, or give --lora-rank 16: it needs an eighth of the memory.",
        ) from error
    trained: PreTrainedModel = trainer.model.merge_and_unload() if config.lora_rank else trainer.model
    trained.config.rstar_steps = True  # it knows the step format now: no worked examples before a problem
    return trained.to(stored_dtype(origin))


def _setup(net: PreTrainedModel, log: TrainLog, config: TrainConfig, machine: Machine, work: Path) -> Setup:
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
    )


def _with_adapters(net: PreTrainedModel, rank: int, task: str) -> PreTrainedModel:
    """LoRA (arXiv 2106.09685) on every linear layer but the head; a classifier's head is trained whole."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
    return get_peft_model(net, config)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' own bars, logs and warnings: the caller shows progress and says what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
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
