"""The `Trainer` of transformers, fed with a plan of updates, for labels at some of a row's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rstar_cli.train.batches import MicroBatch
from rstar_cli.train.plan_trainer import Planned, Setup, attend_to, build, pad, settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from rstar_cli.train.plan_trainer import Tensors


@dataclass(frozen=True, slots=True)
class LabelledIds:
    """A solution as token ids, and what is said of it at some of them.

    Attributes:
        ids: the token ids.
        ends: indices into `ids`, ascending, at least one: where a score is read.
        targets: at each end, the probability in [0, 1] that is to be learnt.
        weight: of each end in the loss, > 0.
    """

    ids: list[int]
    ends: list[int]
    targets: list[float]
    weight: float = 1.0


def make_label_trainer(
    net: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[LabelledIds], setup: Setup
) -> Trainer:
    """A trainer whose `train()` goes through the plan once.

    Args:
        net: on its device; its head gives one score.
        tokenizer: of the model.
        rows: what the plan's numbers stand for.
        setup: how to train; the loss is told in nats a label.
    """
    from datasets import Dataset
    from transformers import TrainingArguments

    padding = net.config.get_text_config().pad_token_id

    def tensors(batch: MicroBatch) -> Tensors:
        return stack([rows[row] for row in batch], padding)

    own = settings(TrainingArguments, net, setup)
    there = Dataset.from_dict({"weight": [row.weight for row in rows]})
    trainer: Trainer = build(_trainer_class(), own, net, tokenizer, there, tensors, setup)
    return trainer


def stack(rows: Sequence[LabelledIds], padding: int) -> Tensors:
    """Rows as tensors, all of shape (rows, longest): ids, mask, and targets and weights, 0 where there is no label.

    Args:
        rows: the rows.
        padding: id of the padding token.
    """
    import torch

    ids = pad([row.ids for row in rows], padding)
    targets, weights = torch.zeros(ids.shape), torch.zeros(ids.shape)
    for i, row in enumerate(rows):
        targets[i, row.ends] = torch.tensor(row.targets)
        weights[i, row.ends] = row.weight
    mask = attend_to([row.ids for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "targets": targets, "weights": weights}


def score_tokens(net: Any, batch: Tensors) -> torch.Tensor:
    """The score at every token, float32, of shape (rows, longest).

    A sequence classifier scores all of them and hands out the last one; the others are caught at its head, so that
    the model is called as whatever wraps it (adapters, several devices) wants it called.
    """
    with _caught(net) as scores:
        net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return scores[-1].squeeze(-1).float()


@contextmanager
def _caught(net: Any) -> Iterator[list[torch.Tensor]]:
    """What the head gives during the block."""
    head = next(module for name, module in net.named_modules() if name.rpartition(".")[2] == "score")
    scores: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _module, _args, output: scores.append(output))
    try:
        yield scores
    finally:
        hook.remove()


def _trainer_class() -> Any:
    from torch.nn.functional import binary_cross_entropy_with_logits
    from transformers import Trainer

    class PlanLabelTrainer(Planned, Trainer):  # type: ignore[misc]
        def share(self, batch: Tensors) -> float:
            """The labels' weights."""
            return float(batch["weights"].sum())

        def compute_loss(
            self,
            model: Any,
            inputs: Tensors,
            return_outputs: bool = False,  # noqa: ARG002
            num_items_in_batch: Any = None,
        ) -> Any:
            """Cross-entropy of sigmoid(score) with the targets: its mean over the update, by the labels' weights."""
            weights, scores = inputs["weights"], score_tokens(model, inputs)
            losses = binary_cross_entropy_with_logits(scores, inputs["targets"], weight=weights, reduction="sum")
            return losses / num_items_in_batch

    return PlanLabelTrainer
