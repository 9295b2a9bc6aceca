"""Fine-tune the policy on verified solutions: TRL's `SFTTrainer` on token ids and labels.

Prompts and output blocks take no loss. Nothing is tokenised, truncated, packed or appended on the way (TRL does all of
that to text), so the model is trained on exactly the ids that search samples. A model of half a million parameters on
a CPU and one of 7 billion on a GPU take the same path.

Memory of full fine-tuning: 16 bytes a parameter (float32 weights, gradients, two moments; Muon 12) plus activations,
so 7B needs about 120 GB on its device; LoRA needs 2 bytes a parameter plus the adapters.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError, SetupError
from rstar_cli.records import SftRow
from rstar_cli.tokens import IGNORED, StepTokenizer
from rstar_cli.train.batches import Update, plan_updates
from rstar_cli.train.checkpoint import load_model, save_checkpoint, stored_dtype, workspace
from rstar_cli.train.machine import Machine, find_machine
from rstar_cli.train.optimizers import linear_schedule, make_optimizer
from rstar_cli.train.trainer import make_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGE = 1_000_000_000
"""Parameters from which activations are recomputed on a GPU, to save memory."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far training is.

    Attributes:
        update: updates done, from 1.
        updates: updates in all.
        loss: of this update before its weights moved, nats a token.
        tokens_per_second: tokens of rows since the start, padding not counted.
    """

    update: int
    updates: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did.

    Attributes:
        rows: rows trained on.
        dropped_too_long: rows left out because they are longer than `max_length`.
        tokens: tokens run through the model, all passes, padding not counted.
        loss_tokens: those of them that took loss.
        updates: updates of the weights.
        seconds: wall-clock time of the updates.
        first_loss: of the first update, before any training, nats a token.
        final_loss: mean of the last tenth of the updates, nats a token.
        output: the checkpoint directory.
    """

    rows: int
    dropped_too_long: int
    tokens: int
    loss_tokens: int
    updates: int
    seconds: float
    first_loss: float
    final_loss: float
    output: Path


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Rows as token ids and labels, those too long left out; per row, its tokens and how many of them take loss."""

    ids: list[list[int]]
    labels: list[list[int]]
    lengths: list[int]
    loss_tokens: list[int]
    dropped: int


class _Log:
    """Keeps the losses and tells the caller."""

    def __init__(self, data: _Encoded, plan: list[Update], on_progress: Callable[[TrainProgress], None] | None) -> None:
        self.plan = plan
        self._data = data
        self._on_progress = on_progress
        self._losses: list[float] = []
        self._tokens = 0
        self._loss_tokens = 0
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
        rows = [row for batch in self.plan[update - 1] for row in batch]
        self._losses.append(loss)
        self._tokens += sum(self._data.lengths[row] for row in rows)
        self._loss_tokens += sum(self._data.loss_tokens[row] for row in rows)
        self._last = time.perf_counter()
        if self._on_progress is not None:
            rate = self._tokens / (self._last - self._start)
            self._on_progress(TrainProgress(update, len(self.plan), loss, rate))

    def report(self, output: Path) -> TrainReport:
        """What was done so far."""
        last = self._losses[-math.ceil(len(self._losses) / 10) :]
        return TrainReport(
            rows=len(self._data.ids),
            dropped_too_long=self._data.dropped,
            tokens=self._tokens,
            loss_tokens=self._loss_tokens,
            updates=len(self._losses),
            seconds=self._last - self._start,
            first_loss=self._losses[0],
            final_loss=sum(last) / len(last),
            output=output,
        )


def train_policy(
    rows: Sequence[SftRow],
    *,
    model: str | Path,
    output: Path,
    config: TrainPolicyConfig,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> TrainReport:
    """Fine-tune a causal language model and write a checkpoint: complete, or not at all.

    Equal rows, config, model and machine give equal weights on a CPU.

    Args:
        rows: training rows; order matters only through the seed's shuffle.
        model: checkpoint directory or hub id to start from.
        output: checkpoint directory to write; an older one is replaced.
        config: settings.
        on_progress: is called after each update's backward pass.

    Raises:
        DataError: no row to train on, ids that the model does not have, or a loss that is not a number.
        SetupError: model or device not there, or out of device memory.
        StorageError: the checkpoint can't be written.
    """
    machine = find_machine(config.device, config.dtype)
    with _quiet(), workspace(output) as work:
        tokenizer = StepTokenizer.load(model)
        data = _encode(rows, tokenizer, config.max_length)
        plan = plan_updates(
            data.lengths,
            epochs=config.epochs,
            batch_size=config.batch_size,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
        )
        log = _Log(data, plan, on_progress)
        trained = _fit(data, log, tokenizer, model, machine, config, work)
        report = log.report(output)
        save_checkpoint(trained, tokenizer.hf, _model_card(model, config, report), work=work, output=output)
    return report


def _encode(rows: Sequence[SftRow], tokenizer: StepTokenizer, max_length: int) -> _Encoded:
    if not rows:
        raise DataError("there is no row to train on", remedy="Run `rstar verify` first; it writes sft.jsonl.")
    encoded = [tokenizer.training_ids(row) for row in rows]
    kept = [(ids, labels) for ids, labels in encoded if len(ids) <= max_length]
    if not kept:
        shortest = min(len(ids) for ids, _ in encoded)
        raise DataError(
            f"all {len(rows)} rows are longer than {max_length} tokens; the shortest has {shortest}",
            remedy=f"Give --max-length {shortest} or more.",
        )
    data = _Encoded(
        ids=[ids for ids, _ in kept],
        labels=[labels for _, labels in kept],
        lengths=[len(ids) for ids, _ in kept],
        loss_tokens=[sum(label != IGNORED for label in labels[1:]) for _, labels in kept],
        dropped=len(encoded) - len(kept),
    )
    if not any(data.loss_tokens):
        raise DataError("no row has a token to learn", field="steps", remedy="Give rows with steps of the policy.")
    return data


def _fit(
    data: _Encoded,
    log: _Log,
    tokenizer: StepTokenizer,
    model: str | Path,
    machine: Machine,
    config: TrainPolicyConfig,
    work: Path,
) -> PreTrainedModel:
    """The trained model, in the number format that its origin is stored in."""
    import torch
    from datasets import Dataset

    stored = stored_dtype(model)
    torch.manual_seed(config.seed)
    # weights that move must be float32: at the paper's learning rate bfloat16 would round most updates away
    frozen = config.lora_rank > 0 and machine.bfloat16
    net = load_model(model, dtype=None if frozen else torch.float32, attention=machine.attention)
    _check_ids(data, net)
    try:
        net.to(machine.device)
        if config.lora_rank:
            net = _with_adapters(net, config.lora_rank)
        optimizer = make_optimizer(
            net, config.optimizer, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        trainer = make_trainer(
            net,
            tokenizer.hf,
            Dataset.from_dict({"input_ids": data.ids, "labels": data.labels}),
            log.plan,
            machine=machine,
            checkpointing=machine.device == "cuda" and sum(p.numel() for p in net.parameters()) >= LARGE,
            optimizers=(optimizer, linear_schedule(optimizer, len(log.plan), config.warmup)),
            seed=config.seed,
            scratch=work / "trainer",
            on_update=log,
        )
        log.start()
        trainer.train()
    except torch.OutOfMemoryError as error:
        raise SetupError(
            f"out of memory on {machine.device}",
            remedy="Lower --batch-tokens, or give --lora-rank 16: it needs an eighth of the memory.",
        ) from error
    trained: PreTrainedModel = trainer.model.merge_and_unload() if config.lora_rank else trainer.model
    trained.config.rstar_steps = True  # it knows the step format now: no worked examples before a problem
    return trained.to(stored)


def _check_ids(data: _Encoded, net: PreTrainedModel) -> None:
    """An id beyond the embedding table is an assertion on a GPU, and no message."""
    known, seen = net.get_input_embeddings().weight.shape[0], max(max(ids) for ids in data.ids)
    if seen >= known:
        raise DataError(
            f"the rows hold token id {seen}, the model knows {known} tokens",
            remedy="The checkpoint's tokenizer is another model's: use the one that the model was made with.",
        )


def _with_adapters(net: PreTrainedModel, rank: int) -> PreTrainedModel:
    """LoRA (arXiv 2106.09685) on every linear layer but the output head."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(net, config)


@contextmanager
def _quiet() -> Iterator[None]:
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


def _model_card(model: str | Path, config: TrainPolicyConfig, report: TrainReport) -> str:
    """README.md of a checkpoint; no clock times, so that equal trainings give equal files."""
    base = "/".join(Path(model).parts[-2:])
    settings = "\n".join(f"| {key} | {value} |" for key, value in config.identity().items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [rstar, math, sft]
---

# Policy model

Fine-tuned by `rstar train-policy` from `{base}` on verified step-by-step solutions, with loss on the solution's own
tokens only (not on the prompt, nor on what programs printed). It writes Python steps in the format of rStar-Math
(arXiv 2501.04519); run what it writes in a sandbox.

| figure | value |
|---|---|
| rows | {report.rows} |
| rows dropped as too long | {report.dropped_too_long} |
| tokens seen | {report.tokens} |
| tokens that took loss | {report.loss_tokens} |
| updates | {report.updates} |
| loss of the first update, nats a token | {report.first_loss:.4f} |
| loss of the last updates, nats a token | {report.final_loss:.4f} |

| setting | value |
|---|---|
{settings}
"""
