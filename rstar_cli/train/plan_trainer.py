"""TRL's trainers, fed with a plan of updates instead of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.train.batches import MicroBatch, Update
from rstar_cli.train.machine import Machine

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Setup:
    """How to train, whatever the loss.

    Attributes:
        plan: the updates.
        machine: where and how to compute.
        checkpointing: recompute activations in the backward pass, to save memory.
        optimizers: the optimizer and its learning-rate schedule.
        seed: of whatever is random in the model (dropout).
        scratch: directory for the trainer's own use.
        on_update: is told each update's loss, nats, before the weights move.
    """

    plan: Sequence[Update]
    machine: Machine
    checkpointing: bool
    optimizers: tuple[Optimizer, LRScheduler]
    seed: int
    scratch: Path
    on_update: Callable[[float], None]


class Planned(ABC):
    """Mixed into a trainer of TRL's: its `train()` goes through the plan once.

    Attributes:
        updates: the data loader.
        on_update: is told each update's loss.
    """

    updates: Updates
    on_update: Callable[[float], None]

    def get_train_dataloader(self) -> Updates:
        """The plan, as the trainer's data loader."""
        return self.updates

    @abstractmethod
    def share(self, batch: Tensors) -> float:
        """What a micro-batch weighs within its update."""

    def training_step(self, model: Any, inputs: list[Tensors], num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        """Sum the gradients of an update's micro-batches; `compute_loss` divides each by the update's whole weight."""
        step: Any = super()
        whole = sum(self.share(batch) for batch in inputs)
        total: Any = 0
        for batch in inputs:
            total += step.training_step(model, batch, whole)
        self.on_update(float(total))
        return total

    def _send_telemetry(self) -> None:  # noqa: B027 - it is empty to silence the one of TRL
        """TRL would report the model's architecture and the machine to its makers."""


class Updates:
    """The updates as a data loader: each item is a list of micro-batches.

    Args:
        plan: the updates.
        tensors: makes a micro-batch of row numbers.
    """

    def __init__(self, plan: Sequence[Update], tensors: Callable[[MicroBatch], Tensors]) -> None:
        self._plan = plan
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[Tensors]]:
        for update in self._plan:
            yield [self._tensors(batch) for batch in update]


def build(
    kind: Any,
    settings: TrainingArguments,
    net: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    tensors: Callable[[MicroBatch], Tensors],
    setup: Setup,
) -> Any:
    """Make a trainer.

    Args:
        kind: its class, `Planned` and a trainer of TRL's.
        settings: see `settings`.
        net: the model, on its device.
        tokenizer: of the model.
        rows: what TRL shall believe to train on; the batches come from `tensors`.
        tensors: makes a micro-batch of row numbers.
        setup: how to train.
    """
    from transformers import PrinterCallback

    trainer = kind(
        model=net,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=list,  # batches come ready from the plan; TRL's own collator would want a padding token
        optimizers=setup.optimizers,
    )
    trainer.updates = Updates(setup.plan, tensors)
    trainer.on_update = setup.on_update
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    return trainer


def settings(kind: Any, net: PreTrainedModel, setup: Setup, **own: object) -> Any:
    """Everything that TRL would do by itself is off: truncation, saving, reports, bars.

    Args:
        kind: class of the settings, such as `SFTConfig`.
        net: the model.
        setup: how to train.
        own: settings of this kind alone.
    """
    made = kind(
        output_dir=str(setup.scratch),
        num_train_epochs=1,  # the plan holds all passes
        use_cpu=setup.machine.device == "cpu",
        bf16=setup.machine.bfloat16,
        gradient_checkpointing=setup.checkpointing,
        max_length=None,
        remove_unused_columns=False,
        use_cache=getattr(net.config, "use_cache", True),  # else the checkpoint's config says: decode without a cache
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        seed=setup.seed,
        **own,
    )
    made._n_gpu = min(1, made.n_gpu)  # one GPU of several: TRL refuses torch's DataParallel
    return made


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """A tensor of shape (rows, longest), padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def attend_to(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The attention mask of padded rows: shape (rows, longest), 1 where there is a token, 0 at the padding."""
    return pad([[1] * len(row) for row in rows], 0)
