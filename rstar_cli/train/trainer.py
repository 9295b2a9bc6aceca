"""TRL's `SFTTrainer`, fed with a plan of updates instead of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.tokens import IGNORED
from rstar_cli.train.batches import MicroBatch, Update
from rstar_cli.train.machine import Machine

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
    from trl import SFTConfig

    Tensors = dict[str, torch.Tensor]

LOGITS = 1 << 26
"""Logits that may be held at once (256 MiB); beyond, TRL's chunked head computes the loss without holding them."""


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    plan: Sequence[Update],
    *,
    machine: Machine,
    checkpointing: bool,
    optimizers: tuple[Optimizer, LRScheduler],
    seed: int,
    scratch: Path,
    on_update: Callable[[float], None],
) -> Trainer:
    """A trainer whose `train()` goes through the plan once.

    Args:
        model: on its device.
        tokenizer: of the model.
        rows: `input_ids` and `labels` of each row.
        plan: the updates.
        machine: where and how to compute.
        checkpointing: recompute activations in the backward pass, to save memory.
        optimizers: the optimizer and its learning-rate schedule.
        seed: of whatever is random in the model (dropout).
        scratch: directory for the trainer's own use.
        on_update: is told each update's loss, nats a token, before the weights move.
    """
    from transformers import PrinterCallback

    trainer = _trainer_class()(
        model=model,
        args=_settings(model, machine, checkpointing, seed, scratch),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=list,  # batches come ready from the plan; TRL's own collator would want a padding token
        optimizers=optimizers,
    )
    trainer.updates = _Updates(rows, plan)
    trainer.on_update = on_update
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    return trainer


def _settings(model: PreTrainedModel, machine: Machine, checkpointing: bool, seed: int, scratch: Path) -> SFTConfig:
    """Everything that TRL would do by itself is off: truncation, end tokens, packing, saving, reports, bars."""
    from trl import SFTConfig

    settings = SFTConfig(
        output_dir=str(scratch),
        num_train_epochs=1,  # the plan holds all passes
        use_cpu=machine.device == "cpu",
        bf16=machine.bfloat16,
        gradient_checkpointing=checkpointing,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        use_cache=getattr(model.config, "use_cache", True),  # else the checkpoint's config says: decode without a cache
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    settings._n_gpu = min(1, settings.n_gpu)  # one GPU of several: TRL refuses torch's DataParallel
    return settings


def _trainer_class() -> Any:
    from torch.nn.functional import cross_entropy
    from trl import SFTTrainer

    class PlanTrainer(SFTTrainer):  # type: ignore[misc]
        updates: _Updates
        on_update: Callable[[float], None]

        def get_train_dataloader(self) -> _Updates:
            return self.updates

        def training_step(self, model: Any, inputs: list[Tensors], num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            """Sum the gradients of an update's micro-batches, each weighed by its share of the update's tokens."""
            tokens = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in inputs)
            total: Any = 0
            for batch in inputs:
                total += super().training_step(model, batch, tokens)
            self.on_update(float(total))
            return total

        def compute_loss(
            self, model: Any, inputs: Tensors, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """TRL's own loss, or where the logits are small the same, from those of the learnt positions alone.

            On a CPU, TRL scores every position twice; this is 1.4 times as fast for the embedded model's update.
            """
            targets = inputs["labels"][:, 1:]
            learnt = targets != IGNORED
            head = self.model.get_output_embeddings()
            small = int(learnt.sum()) * head.weight.shape[0] <= LOGITS
            if return_outputs or not small or getattr(self, "aux_loss_enabled", False):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            with _only(head, learnt):
                output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            loss = cross_entropy(output.logits.float(), targets[learnt], reduction="sum")
            return loss / max(1, num_items_in_batch)

        def _send_telemetry(self) -> None:
            """TRL would report the model's architecture and the machine to its makers."""

    return PlanTrainer


@contextmanager
def _only(head: nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Let the output head see these positions alone: most others are prompt and padding.

    Args:
        head: the output head; logits come out in shape (positions, vocabulary).
        positions: shape (rows, length - 1), true where the next token is learnt.
    """
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][positions],))
    try:
        yield
    finally:
        hook.remove()


class _Updates:
    """The updates as the trainer's data loader: each item is a list of micro-batches."""

    def __init__(self, rows: Dataset, plan: Sequence[Update]) -> None:
        self._rows = rows
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[Tensors]]:
        for update in self._plan:
            yield [_pad(self._rows, batch) for batch in update]


def _pad(rows: Dataset, batch: MicroBatch) -> Tensors:
    """Tensors of shape (rows, longest), padded on the right; the padding takes no attention and no loss."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    picked = rows[list(batch)]
    ids = [torch.tensor(row) for row in picked["input_ids"]]
    labels = [torch.tensor(row) for row in picked["labels"]]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
