"""Train the process preference model (PPM; rStar-Math, arXiv 2501.04519, section 3.3) on pairs of steps and solutions.

A language model with one score in place of its output head, read at the closing tag of a step. Trained so that of two
continuations of one prefix the better one scores higher (Bradley-Terry); TRL's `RewardTrainer` on token ids. A score
becomes a value in [-1, 1] as tanh(score / scale), the scale written into the checkpoint's config as
`rstar_value_scale`.

The pairs of some problems are kept apart to measure the accuracy on. They are apart from this training alone: the
policy that it starts from may have seen a right solution of such a problem.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rstar_cli.config import TrainPrmConfig
from rstar_cli.errors import DataError
from rstar_cli.metrics import Estimate, estimate, told
from rstar_cli.records import PairRow
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.batches import cut
from rstar_cli.train.checkpoint import load_scorer, save_checkpoint, workspace
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
from rstar_cli.train.resume import fingerprint
from rstar_cli.train.reward_trainer import TokenPair, make_reward_trainer, score, stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VALUE_SCALE = {"loss": 1.0, "after": 5.0}
"""By `squash`: what a score is divided by before tanh makes a value of it. The loss compares tanh(score) (paper), or
the scores themselves, which then grow to several units (upstream: tanh(score / 5))."""


@dataclass(frozen=True, slots=True)
class PrmReport:
    """What a training did.

    Attributes:
        pairs: pairs trained on.
        dropped_too_long: pairs left out because a side is longer than `max_length`.
        tokens: tokens run through the model in training, all passes, padding not counted.
        updates: updates of the weights.
        seconds: wall-clock time of the updates.
        first_loss: of the first update, before any training, nats a pair.
        final_loss: mean of the last tenth of the updates, nats a pair.
        held_out: pairwise accuracy of the trained model on the pairs kept apart: `all`, then by kind, `step` and
            `solution`; None where no pair was kept apart.
        output: the checkpoint directory.
    """

    pairs: int
    dropped_too_long: int
    tokens: int
    updates: int
    seconds: float
    first_loss: float
    final_loss: float
    held_out: dict[str, Estimate] | None
    output: Path


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Pairs as token ids, those too long left out: to train on, and those kept apart with their kinds."""

    train: list[TokenPair]
    held_out: list[tuple[Literal["step", "solution"], TokenPair]]
    dropped: int


def train_prm(
    rows: Sequence[PairRow],
    *,
    model: str | Path,
    output: Path,
    config: TrainPrmConfig,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> PrmReport:
    """Train a scorer and write a checkpoint: complete, or not at all.

    Equal rows, config, model and machine give equal weights on a CPU.

    Args:
        rows: preference pairs; order matters only through the seed's shuffle.
        model: checkpoint directory or hub id to start from; a causal language model, or a scorer to train on.
        output: checkpoint directory to write; an older one is replaced.
        config: settings.
        on_progress: is called after each update's backward pass.

    Raises:
        DataError: no pair to train on, ids that the model does not have, or a loss that is not a number.
        SetupError: model or device not there, or out of device memory.
        StorageError: the checkpoint can't be written.
    """
    machine = find_machine(config.device, config.dtype)
    with quiet(), workspace(output) as work:
        tokenizer = StepTokenizer.load(model)
        data = _encode(rows, tokenizer, config)
        pairs = data.train
        passes = _updates(len(pairs), config) / math.ceil(len(pairs) / config.batch_size)
        plan = make_plan([pair.padded for pair in pairs], config, passes)
        net = load_scorer(model, tokenizer.hf, dtype=loaded_dtype(config, machine), attention=machine.attention)
        seen = [*pairs, *(pair for _, pair in data.held_out)]
        check_ids((ids for pair in seen for ids in (pair.chosen, pair.rejected)), net)
        log = TrainLog(plan, [pair.tokens for pair in pairs], on_progress)
        trained = fit(
            net,
            log,
            lambda net, setup: make_reward_trainer(net, tokenizer.hf, pairs, setup, squash=config.squash == "loss"),
            origin=model,
            task="SEQ_CLS",
            config=config,
            machine=machine,
            work=work,
            data=fingerprint(pairs),
        )
        trained.config.rstar_value_scale = VALUE_SCALE[config.squash]
        report = _report(data, log, pairwise_accuracy(trained, data.held_out, config.batch_tokens), output)
        save_checkpoint(trained, tokenizer.hf, _model_card(model, config, report), work=work, output=output)
    return report


def count_updates(rows: Iterable[PairRow], config: TrainPrmConfig) -> int:
    """Updates of a training on these rows, as long as none of them is too long."""
    return _updates(sum(not is_held_out(row.problem_id, config) for row in rows), config)


def _updates(pairs: int, config: TrainPrmConfig) -> int:
    return max(config.min_updates, round(config.epochs * math.ceil(pairs / config.batch_size)))


def _encode(rows: Sequence[PairRow], tokenizer: StepTokenizer, config: TrainPrmConfig) -> _Encoded:
    if not rows:
        raise DataError("there is no pair to train on", remedy="Run `rstar verify` first; it writes pairs.jsonl.")
    encoded = [(row, TokenPair(*tokenizer.pair_ids(row), row.weight)) for row in rows]
    kept = [(row, pair) for row, pair in encoded if pair.longest <= config.max_length]
    if not kept:
        shortest = min(pair.longest for _, pair in encoded)
        raise DataError(
            f"all {len(rows)} pairs have a side longer than {config.max_length} tokens; the shortest has {shortest}",
            remedy=f"Give --max-length {shortest} or more.",
        )
    data = _Encoded(
        train=[pair for row, pair in kept if not is_held_out(row.problem_id, config)],
        held_out=[(row.kind, pair) for row, pair in kept if is_held_out(row.problem_id, config)],
        dropped=len(encoded) - len(kept),
    )
    if not data.train:
        raise DataError(
            f"there is no pair to train on: the problems of all {len(kept)} are held out",
            remedy="Give pairs of more problems, or --held-out 0.",
        )
    return data


def pairwise_accuracy(
    net: PreTrainedModel, pairs: Sequence[tuple[str, TokenPair]], batch_tokens: int
) -> dict[str, Estimate] | None:
    """Share of pairs whose chosen side scores higher, equal scores half, of `all` and of each kind; None without pairs.

    The model computes in the number format of its weights. Pairs count as independent in the interval.

    Args:
        net: the scorer.
        pairs: kind and ids of each pair.
        batch_tokens: tokens of a forward pass, padding counted, at most; a longer pair goes alone.
    """
    import torch

    net.eval()
    net.set_attn_implementation("sdpa")  # what training uses on a CPU wants autocast
    padding = net.config.get_text_config().pad_token_id
    points: defaultdict[str, list[float]] = defaultdict(list)
    for batch in cut(range(len(pairs)), [pair.padded for _, pair in pairs], batch_tokens) if pairs else ():
        tensors = {name: t.to(net.device) for name, t in stack([pairs[i][1] for i in batch], padding).items()}
        with torch.inference_mode():
            chosen, rejected = score(net, tensors)
        won = ((chosen > rejected).float() + (chosen == rejected).float() / 2).tolist()
        for i, point in zip(batch, won, strict=True):
            points["all"].append(point)
            points[pairs[i][0]].append(point)
    return {kind: estimate(points[kind]) for kind in sorted(points)} or None


def _report(data: _Encoded, log: TrainLog, held_out: dict[str, Estimate] | None, output: Path) -> PrmReport:
    return PrmReport(
        pairs=len(data.train),
        dropped_too_long=data.dropped,
        tokens=log.tokens,
        updates=len(log.plan),
        seconds=log.seconds,
        first_loss=log.first_loss,
        final_loss=log.final_loss,
        held_out=held_out,
        output=output,
    )


def _model_card(model: str | Path, config: TrainPrmConfig, report: PrmReport) -> str:
    """README.md of a checkpoint; no clock times, so that equal trainings give equal files."""
    figures: list[tuple[str, object]] = [
        ("pairs", report.pairs),
        ("pairs dropped as too long", report.dropped_too_long),
        ("tokens seen", report.tokens),
        ("updates", report.updates),
        ("loss of the first update, nats a pair", f"{report.first_loss:.4f}"),
        ("loss of the last updates, nats a pair", f"{report.final_loss:.4f}"),
        *((f"held-out pairwise accuracy, {kind}", told(found)) for kind, found in (report.held_out or {}).items()),
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [rstar, math, process-reward-model]
---

# Process preference model

Trained by `rstar train-prm` from `{card_base(model)}` on pairs of steps and of solutions (Bradley-Terry), as in
rStar-Math (arXiv 2501.04519). `AutoModelForSequenceClassification` loads it; its one logit is the score of a solution
that ends with the closing tag of a step, and tanh(score / {VALUE_SCALE[config.squash]}) its value in [-1, 1].

Held-out accuracy is on problems whose pairs took no part in this training; the policy that it started from may have
seen their right solutions.

{card_table("figure", figures)}

{card_table("setting", config.identity().items())}
"""
