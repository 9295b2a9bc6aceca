"""Fine-tune the policy on verified solutions: TRL's `SFTTrainer` on token ids and labels.

Prompts and output blocks take no loss. Nothing is tokenised, truncated, packed or appended on the way (TRL does all of
that to text), so the model is trained on exactly the ids that search samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError
from rstar_cli.records import SftRow
from rstar_cli.tokens import IGNORED, StepTokenizer
from rstar_cli.train.checkpoint import load_model, save_checkpoint, workspace
from rstar_cli.train.fit import (
    TrainLog,
    TrainProgress,
    card_base,
    card_table,
    check_ids,
    fit,
    loaded_dtype,
    make_plan,
    quiet,
)
from rstar_cli.train.machine import find_machine
from rstar_cli.train.trainer import make_trainer


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
    from datasets import Dataset

    machine = find_machine(config.device, config.dtype)
    with quiet(), workspace(output) as work:
        tokenizer = StepTokenizer.load(model)
        data = _encode(rows, tokenizer, config.max_length)
        plan = make_plan(data.lengths, config, config.epochs)
        net = load_model(model, dtype=loaded_dtype(config, machine), attention=machine.attention)
        check_ids(data.ids, net)
        columns = Dataset.from_dict({"input_ids": data.ids, "labels": data.labels})
        log = TrainLog(plan, data.lengths, on_progress)
        trained = fit(
            net,
            log,
            lambda net, setup: make_trainer(net, tokenizer.hf, columns, setup),
            origin=model,
            task="CAUSAL_LM",
            config=config,
            machine=machine,
            work=work,
        )
        report = _report(data, log, output)
        save_checkpoint(trained, tokenizer.hf, _model_card(model, config, report), work=work, output=output)
    return report


def _report(data: _Encoded, log: TrainLog, output: Path) -> TrainReport:
    return TrainReport(
        rows=len(data.ids),
        dropped_too_long=data.dropped,
        tokens=log.tokens,
        loss_tokens=sum(data.loss_tokens[row] for update in log.plan for batch in update for row in batch),
        updates=len(log.plan),
        seconds=log.seconds,
        first_loss=log.first_loss,
        final_loss=log.final_loss,
        output=output,
    )


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


def _model_card(model: str | Path, config: TrainPolicyConfig, report: TrainReport) -> str:
    """README.md of a checkpoint; no clock times, so that equal trainings give equal files."""
    figures = [
        ("rows", report.rows),
        ("rows dropped as too long", report.dropped_too_long),
        ("tokens seen", report.tokens),
        ("tokens that took loss", report.loss_tokens),
        ("updates", report.updates),
        ("loss of the first update, nats a token", f"{report.first_loss:.4f}"),
        ("loss of the last updates, nats a token", f"{report.final_loss:.4f}"),
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [rstar, math, sft]
---

# Policy model

Fine-tuned by `rstar train-policy` from `{card_base(model)}` on verified step-by-step solutions, with loss on the
solution's own tokens only (not on the prompt, nor on what programs printed). It writes Python steps in the format of
rStar-Math (arXiv 2501.04519); run what it writes in a sandbox.

{card_table("figure", figures)}

{card_table("setting", config.identity().items())}
"""
