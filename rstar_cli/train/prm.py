"""Train a process reward model (PRM): a language model with one score in place of its output head.

The score is read at the closing tag of a step, and becomes a value in [-1, 1] as tanh(score / scale), the scale written
into the checkpoint's config as `rstar_value_scale`. By `objective`:

- `ppm`, the process preference model (rStar-Math, arXiv 2501.04519, section 3.3): of two continuations of one prefix
  the better one scores higher (Bradley-Terry); TRL's `RewardTrainer` on token ids.
- `orm`, an outcome reward model (Cobbe et al., arXiv 2110.14168): at a solution's end, whether it is right.
- `prm-hard`: at each step's end, whether a right answer was reached from there (Math-Shepherd, arXiv 2312.08935).
- `prm-soft`: at each step's end, its Q in [-1, 1] as the probability (Q + 1) / 2.

The last three learn sigmoid(score) by cross-entropy, so that 2 * sigmoid(score) - 1 = tanh(score / 2) is the value.

Some problems are kept apart to measure on. They are apart from this training alone: the policy that it starts from may
have seen a right solution of such a problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_cli.config import TrainPrmConfig
from rstar_cli.metrics import Estimate, told
from rstar_cli.tokens import StepTokenizer
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
from rstar_cli.train.label_trainer import make_label_trainer
from rstar_cli.train.machine import find_machine
from rstar_cli.train.plan_trainer import Setup
from rstar_cli.train.prm_data import LEARNT, PrmData, PrmRow, chosen, encode, is_learnt
from rstar_cli.train.prm_report import Ranking, pairwise_accuracy, ranking, shown
from rstar_cli.train.ready import check_packages
from rstar_cli.train.resume import fingerprint
from rstar_cli.train.reward_trainer import make_reward_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

VALUE_SCALE = {"loss": 1.0, "after": 5.0}
"""By `squash`: what a PPM's score is divided by before tanh makes a value of it. The loss compares tanh(score) (paper),
or the scores themselves, which then grow to several units (upstream: tanh(score / 5))."""

LABEL_SCALE = 2.0
"""The same where sigmoid(score) is a probability p: tanh(score / 2) = 2p - 1."""


@dataclass(frozen=True, slots=True)
class PrmReport:
    """What a training did.

    Attributes:
        rows: pairs, or labelled solutions, trained on.
        dropped_too_long: those left out because they (of a pair: a side) are longer than `max_length`.
        tokens: tokens run through the model in training, all passes, padding not counted.
        updates: updates of the weights.
        seconds: wall-clock time of the updates.
        first_loss: of the first update, before any training, nats a pair or a label.
        final_loss: mean of the last tenth of the updates, nats a pair or a label.
        held_out: pairwise accuracy of the trained model on the pairs kept apart: `all`, then by kind, `step` and
            `solution`; None where no pair was kept apart.
        ranking: other figures of the trained model on the labelled solutions kept apart; empty where there were none.
        output: the checkpoint directory.
    """

    rows: int
    dropped_too_long: int
    tokens: int
    updates: int
    seconds: float
    first_loss: float
    final_loss: float
    held_out: dict[str, Estimate] | None
    ranking: Ranking
    output: Path


def train_prm(
    rows: Sequence[PrmRow],
    *,
    model: str | Path,
    output: Path,
    config: TrainPrmConfig,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> PrmReport:
    """Train a scorer and write a checkpoint: complete, or not at all.

    Equal rows, config, model and machine give equal weights on a CPU.

    Args:
        rows: preference pairs, labelled solutions, or both. The kind that `objective` learns from is trained on; what
            is kept apart of either kind is measured on. Order matters only through the seed's shuffle.
        model: checkpoint directory or hub id to start from; a causal language model, or a scorer to train on.
        output: checkpoint directory to write; an older one is replaced.
        config: settings.
        on_progress: is called after each update's backward pass.

    Raises:
        DataError: no row to train on, ids that the model does not have, or a loss that is not a number.
        SetupError: model or device not there, or out of device memory.
        StorageError: the checkpoint can't be written.
    """
    check_packages(config)
    machine = find_machine(config.device, config.dtype)
    with quiet(), workspace(output) as work:
        tokenizer = StepTokenizer.load(model, trust_remote_code=config.trust_remote_code)
        data = encode(rows, tokenizer, config)
        padded = [pair.padded for pair in data.pairs] or [len(row.ids) for row in data.labels]
        tokens = [pair.tokens for pair in data.pairs] or padded
        passes = _updates(len(padded), config) / math.ceil(len(padded) / config.batch_size)
        log = TrainLog(make_plan(padded, config, passes), tokens, on_progress)
        net = load_scorer(
            model,
            tokenizer.hf,
            dtype=loaded_dtype(config, machine),
            attention=machine.attention,
            trust_remote_code=config.trust_remote_code,
        )
        check_ids(data.every_ids, net)
        trained = fit(
            net,
            log,
            lambda net, setup: _trainer(net, tokenizer.hf, data, setup, config),
            origin=model,
            task="SEQ_CLS",
            config=config,
            machine=machine,
            work=work,
            data=fingerprint(data.pairs, data.labels),
        )
        trained.config.rstar_value_scale = value_scale(config)
        report = _report(data, log, trained, config, output)
        save_checkpoint(trained, tokenizer.hf, _model_card(model, config, report), work=work, output=output)
    return report


def value_scale(config: TrainPrmConfig) -> float:
    """What a score is divided by before tanh makes a value of it, > 0."""
    return VALUE_SCALE[config.squash] if config.objective == "ppm" else LABEL_SCALE


def loss_unit(config: TrainPrmConfig) -> str:
    """What the loss is a mean over."""
    return "pair" if config.objective == "ppm" else "label"


def count_updates(rows: Iterable[PrmRow], config: TrainPrmConfig) -> int:
    """Updates of a training on these rows, as long as none of them is too long."""
    rows = chosen([row for row in rows if is_learnt(row, config) and not is_held_out(row.problem_id, config)], config)
    return _updates(len(rows), config)


def _updates(rows: int, config: TrainPrmConfig) -> int:
    return max(config.min_updates, round(config.epochs * math.ceil(rows / config.batch_size)))


def _trainer(
    net: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: PrmData, setup: Setup, config: TrainPrmConfig
) -> Trainer:
    if config.objective == "ppm":
        return make_reward_trainer(net, tokenizer, data.pairs, setup, squash=config.squash == "loss")
    return make_label_trainer(net, tokenizer, data.labels, setup)


def _report(data: PrmData, log: TrainLog, trained: PreTrainedModel, config: TrainPrmConfig, output: Path) -> PrmReport:
    tokens, scale = config.batch_tokens, value_scale(config)
    return PrmReport(
        rows=len(data.pairs) or len(data.labels),
        dropped_too_long=data.dropped,
        tokens=log.tokens,
        updates=len(log.plan),
        seconds=log.seconds,
        first_loss=log.first_loss,
        final_loss=log.final_loss,
        held_out=pairwise_accuracy(trained, data.held_out_pairs, tokens),
        ranking=ranking(trained, data.held_out_labels, scale=scale, batch_tokens=tokens, seed=config.seed),
        output=output,
    )


ABOUT = {
    "ppm": "on pairs of steps and of solutions (Bradley-Terry), as in rStar-Math (arXiv 2501.04519)",
    "orm": "on whole solutions, right and wrong, by cross-entropy",
    "prm-hard": "on solutions, by cross-entropy at each step's end: whether a right answer was reached from there",
    "prm-soft": "on solutions, by cross-entropy at each step's end: its mean reward in the search",
}
"""By objective: what the model card says of the training."""


def _model_card(model: str | Path, config: TrainPrmConfig, report: PrmReport) -> str:
    """README.md of a checkpoint; no clock times, so that equal trainings give equal files."""
    learnt = LEARNT[config.objective]
    unit = loss_unit(config)
    figures: list[tuple[str, object]] = [
        (f"{learnt}s", report.rows),
        (f"{learnt}s dropped as too long", report.dropped_too_long),
        ("tokens seen", report.tokens),
        ("updates", report.updates),
        (f"loss of the first update, nats a {unit}", f"{report.first_loss:.4f}"),
        (f"loss of the last updates, nats a {unit}", f"{report.final_loss:.4f}"),
        *((f"held-out pairwise accuracy, {kind}", told(found)) for kind, found in (report.held_out or {}).items()),
        *((f"held-out {name}", value) for name, value in shown(report.ranking)),
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [rstar, math, process-reward-model]
---

# Process reward model

Trained by `rstar train-prm` from `{card_base(model)}` {ABOUT[config.objective]}.
`AutoModelForSequenceClassification` loads it; its one logit is the score of a solution that ends with the closing tag
of a step, and tanh(score / {value_scale(config)}) its value in [-1, 1].

Held-out figures are on problems whose rows took no part in this training; the policy that it started from may have seen
their right solutions.

{card_table("figure", figures)}

{card_table("setting", config.identity().items())}
"""
