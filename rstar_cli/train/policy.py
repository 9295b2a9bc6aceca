"""Fine-tune the policy on verified solutions: TRL's `SFTTrainer` on token ids and labels.

Prompts and output blocks take no loss. Nothing is tokenised, truncated, packed or appended on the way (TRL does all of
that to text), so the model is trained on exactly the ids that search samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError
from rstar_cli.records import SftRow
from rstar_cli.tokens import IGNORED, StepTokenizer
from rstar_cli.train.batches import cut
from rstar_cli.train.checkpoint import load_model, save_checkpoint, workspace
from rstar_cli.train.fit import (
    TrainLog,
    TrainProgress,
    card_base,
    card_table,
    check_ids,
    fit,
    is_held_out,
    loaded_dtype,
    make_plan,
    quiet,
)
from rstar_cli.train.machine import find_machine
from rstar_cli.train.packing import pack_attention
from rstar_cli.train.ready import check_packages
from rstar_cli.train.resume import HeldOut, fingerprint
from rstar_cli.train.trainer import make_trainer


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did.

    Attributes:
        rows: rows trained on.
        dropped_too_long: rows left out because they are longer than `max_length`.
        tokens: tokens run through the model in training, all passes, padding not counted.
        loss_tokens: those of them that took loss.
        updates: updates of the weights.
        kept: the update after which the weights were as they were written.
        held_out_rows: rows kept apart.
        held_out_loss: of the written weights on those, nats a token; None without them.
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
    kept: int
    held_out_rows: int
    held_out_loss: float | None
    seconds: float
    first_loss: float
    final_loss: float
    output: Path


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Rows as token ids and labels, those too long left out; per row, its tokens and how many of them take loss.

    The first `train` rows are to train on, the others are kept apart.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    lengths: list[int]
    loss_tokens: list[int]
    train: int
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

    check_packages(config)
    machine = find_machine(config.device, config.dtype)
    with quiet(), workspace(output) as work:
        tokenizer = StepTokenizer.load(model, trust_remote_code=config.trust_remote_code)
        data = _encode(rows, tokenizer, config)
        net = load_model(
            model,
            dtype=loaded_dtype(config, machine),
            attention=machine.attention,
            trust_remote_code=config.trust_remote_code,
        )
        packed = machine.device == "cpu" and pack_attention(net)
        plan = make_plan(data.lengths[: data.train], config, config.epochs, packed=packed)
        check_ids(data.ids, net)
        columns = Dataset.from_dict({"input_ids": data.ids, "labels": data.labels})
        log = TrainLog(plan, data.lengths[: data.train], on_progress)
        trained = fit(
            net,
            log,
            lambda net, setup: make_trainer(net, tokenizer.hf, columns, setup, packed=packed),
            origin=model,
            task="CAUSAL_LM",
            config=config,
            machine=machine,
            work=work,
            data=fingerprint(data.ids, data.labels),
            held_out=_held_out(data, config, len(plan)),
            merge=config.merge or not config.lora_rank,
        )
        report = _report(data, log, output)
        save_checkpoint(trained, tokenizer.hf, _model_card(model, config, report), work=work, output=output)
    return report


def count_updates(rows: Iterable[SftRow], config: TrainPolicyConfig) -> int:
    """Updates of a training on these rows, as long as none of them is too long."""
    train = sum(not is_held_out(row.problem_id, config) for row in rows)
    return max(1, round(config.epochs * math.ceil(train / config.batch_size)))


def _held_out(data: _Encoded, config: TrainPolicyConfig, updates: int) -> HeldOut | None:
    """The rows kept apart, to be looked at twice an epoch and at the end; None where there are none."""
    if data.train == len(data.ids):
        return None
    half = math.ceil(data.train / config.batch_size) / 2
    at = {max(1, round(i * half)) for i in range(1, int(updates / half) + 1)} | {updates}
    apart = range(data.train, len(data.ids))
    return HeldOut(cut(apart, data.lengths, config.batch_tokens), frozenset(at), config.patience)


def _report(data: _Encoded, log: TrainLog, output: Path) -> TrainReport:
    done = log.plan[: log.updates]
    return TrainReport(
        rows=data.train,
        dropped_too_long=data.dropped,
        tokens=log.tokens,
        loss_tokens=sum(data.loss_tokens[row] for update in done for batch in update for row in batch),
        updates=log.updates,
        kept=log.kept,
        held_out_rows=len(data.ids) - data.train,
        held_out_loss=dict(log.held_out).get(log.kept),
        seconds=log.seconds,
        first_loss=log.first_loss,
        final_loss=log.final_loss,
        output=output,
    )


def _encode(rows: Sequence[SftRow], tokenizer: StepTokenizer, config: TrainPolicyConfig) -> _Encoded:
    if not rows:
        raise DataError("there is no row to train on", remedy="Run `rstar verify` first; it writes sft.jsonl.")
    encoded = [(is_held_out(row.problem_id, config), *tokenizer.training_ids(row)) for row in rows]
    kept = [row for row in encoded if len(row[1]) <= config.max_length]
    if not kept:
        shortest = min(len(ids) for _, ids, _ in encoded)
        raise DataError(
            f"all {len(rows)} rows are longer than {config.max_length} tokens; the shortest has {shortest}",
            remedy=f"Give --max-length {shortest} or more.",
        )
    kept.sort(key=lambda row: row[0])  # stable: those kept apart come last
    data = _Encoded(
        ids=[ids for _, ids, _ in kept],
        labels=[labels for _, _, labels in kept],
        lengths=[len(ids) for _, ids, _ in kept],
        loss_tokens=[sum(label != IGNORED for label in labels[1:]) for _, _, labels in kept],
        train=sum(not apart for apart, _, _ in kept),
        dropped=len(encoded) - len(kept),
    )
    if not data.train:
        raise DataError(
            f"there is no row to train on: the problems of all {len(kept)} are held out",
            remedy="Give rows of more problems, or --held-out 0.",
        )
    if not any(data.loss_tokens[: data.train]):
        raise DataError("no row has a token to learn", field="steps", remedy="Give rows with steps of the policy.")
    return data


def _held_out_figures(report: TrainReport) -> list[tuple[str, object]]:
    if report.held_out_loss is None:
        return []
    return [
        ("rows held out", report.held_out_rows),
        ("held-out loss, nats a token", f"{report.held_out_loss:.4f}"),
        ("written weights are of update", report.kept),
    ]


def _model_card(model: str | Path, config: TrainPolicyConfig, report: TrainReport) -> str:
    """README.md of a checkpoint; no clock times, so that equal trainings give equal files."""
    figures = [
        ("rows", report.rows),
        ("rows dropped as too long", report.dropped_too_long),
        ("tokens seen", report.tokens),
        ("tokens that took loss", report.loss_tokens),
        ("updates", report.updates),
        *_held_out_figures(report),
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
