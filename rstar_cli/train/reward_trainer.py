"""TRL's `RewardTrainer`, fed with a plan of updates instead of a sampler, and pairs that weigh differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rstar_cli.train.batches import MicroBatch
from rstar_cli.train.plan_trainer import Planned, Setup, attend_to, build, pad, settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from rstar_cli.train.plan_trainer import Tensors


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference pair as token ids; `weight` is its weight in the loss, > 0."""

    chosen: list[int]
    rejected: list[int]
    weight: float

    @property
    def tokens(self) -> int:
        """Tokens of both sides."""
        return len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))

    @property
    def padded(self) -> int:
        """What it takes in a micro-batch, where both sides are padded to the longer one."""
        return 2 * self.longest


def make_reward_trainer(
    net: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TokenPair],
    setup: Setup,
    *,
    squash: bool,
) -> Trainer:
    """A trainer whose `train()` goes through the plan once.

    Args:
        net: on its device; its head gives one score.
        tokenizer: of the model.
        pairs: what the plan's numbers stand for.
        setup: how to train; the loss is told in nats a pair.
        squash: tanh on the scores before they are compared.
    """
    from datasets import Dataset
    from trl import RewardConfig

    rows = Dataset.from_dict({"weight": [pair.weight for pair in pairs]})
    padding = net.config.get_text_config().pad_token_id

    def tensors(batch: MicroBatch) -> Tensors:
        return stack([pairs[row] for row in batch], padding)

    own = settings(RewardConfig, net, setup, max_length=None)
    trainer: Trainer = build(_trainer_class(squash), own, net, tokenizer, rows, tensors, setup)
    return trainer


def stack(pairs: Sequence[TokenPair], padding: int) -> Tensors:
    """Pairs as tensors: ids and mask of shape (2 * pairs, longest), all chosen sides first, and their weights (pairs,).

    Args:
        pairs: the pairs.
        padding: id of the padding token; the model finds a row's last token by it.
    """
    import torch

    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    weights = torch.tensor([pair.weight for pair in pairs])
    return {"input_ids": pad(sides, padding), "attention_mask": attend_to(sides), "weights": weights}


def score(net: Any, batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the chosen and of the rejected sides, float32, each of shape (pairs,)."""
    output = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    chosen, rejected = output.logits.squeeze(-1).float().chunk(2)
    return chosen, rejected


def _trainer_class(squash: bool) -> Any:
    from torch.nn.functional import logsigmoid
    from trl import RewardTrainer

    class PlanRewardTrainer(Planned, RewardTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: object) -> Any:
            """The pairs are token ids already."""
            return dataset

        def share(self, batch: Tensors) -> float:
            """The pairs' weights."""
            return float(batch["weights"].sum())

        def compute_loss(
            self,
            model: Any,
            inputs: Tensors,
            return_outputs: bool = False,  # noqa: ARG002
            num_items_in_batch: Any = None,
        ) -> Any:
            """Bradley-Terry: the mean of -log sigmoid(chosen - rejected) over the update, by the pairs' weights."""
            chosen, rejected = score(model, inputs)
            gap = chosen.tanh() - rejected.tanh() if squash else chosen - rejected
            return -(inputs["weights"] * logsigmoid(gap)).sum() / num_items_in_batch

    return PlanRewardTrainer
