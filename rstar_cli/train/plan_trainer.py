"""TRL's trainers, fed with a plan of updates instead of a sampler."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rstar_cli.errors import StorageError
from rstar_cli.packages import require
from rstar_cli.ranks import rank, world_size
from rstar_cli.train.batches import MicroBatch, Update
from rstar_cli.train.machine import Machine

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Report:
    """Where losses are reported to.

    Attributes:
        to: a package that the Trainer knows: `tensorboard`, `trackio` or `wandb`.
        name: of the training there.
        folder: for TensorBoard's files, where $TENSORBOARD_LOGGING_DIR names no other.
    """

    to: str
    name: str
    folder: Path


def check_reporter(package: str) -> None:
    """Refuse a reporter that is not installed.

    Raises:
        SetupError: tells the command that installs it.
    """
    if package != "none":
        require(f"--report-to {package}", package)


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
        on_update: is told each update's loss, nats, before the weights move; gives what the log tells beside it.
        held_out: rows kept apart, whose loss `evaluate` computes.
        report: where losses are reported to; None: nowhere.
    """

    plan: Sequence[Update]
    machine: Machine
    checkpointing: bool
    optimizers: tuple[Optimizer, LRScheduler]
    seed: int
    scratch: Path
    on_update: Callable[[float], dict[str, float]]
    held_out: Update = ()
    report: Report | None = None


class Part(NamedTuple):
    """A process's part of a micro-batch.

    Where there are too few rows for all it is a row of another's, and does not count: all must do as many passes.

    Attributes:
        tensors: the rows.
        counts: whether they are to be learnt.
    """

    tensors: Tensors
    counts: bool


class Planned(ABC):
    """Mixed into a trainer of transformers or TRL: its `train()` goes through the plan once.

    Attributes:
        updates: the data loader.
        on_update: is told each update's loss.
    """

    updates: Updates
    held_out: Updates
    on_update: Callable[[float], dict[str, float]]
    told: dict[str, float]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan, an update a batch; a resumed training skips those that are done."""
        from torch.utils.data import DataLoader

        plan: Any = self.updates
        return DataLoader(plan, batch_size=1, collate_fn=_only)

    @abstractmethod
    def share(self, batch: Tensors) -> float:
        """What a micro-batch weighs within its update."""

    def training_step(self, model: Any, inputs: list[Part], num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        """Sum the gradients of an update's micro-batches; `compute_loss` divides each by the update's whole weight.

        Gradients are averaged over the processes, so each divides by its part of the weight only: their mean is the
        sum. They are exchanged after the last micro-batch; sharded ones after each, which takes less memory.
        """
        step: Any = super()
        trainer: Any = self
        mean = self._over_all(sum(self.share(part.tensors) for part in inputs if part.counts)) / world_size()
        total: Any = 0
        for number, part in enumerate(inputs, 1):
            later = number < len(inputs) and not trainer.is_fsdp_enabled
            with trainer.accelerator.no_sync(model) if later else nullcontext():
                total += step.training_step(model, part.tensors, mean if part.counts else math.inf)
        self.told = self.on_update(self._over_all(float(total)) / world_size())
        return total

    def _over_all(self, value: float) -> float:
        """The sum over all processes."""
        if world_size() == 1:
            return value
        import torch

        trainer: Any = self
        told = torch.tensor(value, dtype=torch.float64, device=trainer.accelerator.device)
        return float(trainer.accelerator.reduce(told, "sum"))

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """The loss on the held-out rows, as in training but with no gradient; it goes into the log."""
        import torch

        trainer: Any = self
        trainer.model.eval()
        parts = self.held_out[0]
        total, whole = 0.0, self._over_all(sum(self.share(part.tensors) for part in parts if part.counts))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for part in parts:
                inputs, weight = trainer._prepare_inputs(part.tensors), whole if part.counts else math.inf
                total += float(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=weight))
        metrics = {"eval_loss": self._over_all(total)}
        self.log(dict(metrics))
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *more: Any) -> None:
        """Tell tokens and seconds beside an update's loss."""
        log: Any = super()
        log.log({**logs, **self.told} if "loss" in logs else logs, *more)

    def _save_checkpoint(self, *what: Any) -> None:
        """Write the state of the training.

        Raises:
            StorageError: it can't be written.
        """
        from safetensors import SafetensorError

        save: Any = super()
        try:
            save._save_checkpoint(*what)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
            raise StorageError(
                f"the state of the training can't be saved: {error}", remedy="Free space, or raise --save-minutes."
            ) from error

    def create_model_card(self, *_: object, **__: object) -> None:  # noqa: B027
        """TRL would write one beside each saved state."""

    def _send_telemetry(self) -> None:  # noqa: B027 - it is empty to silence the one of TRL
        """TRL would report the model's architecture and the machine to its makers."""


class Updates:
    """The updates as a data set: each item is a list of micro-batches, or of this process's part of each.

    Args:
        plan: the updates.
        tensors: makes a micro-batch of row numbers.
    """

    def __init__(self, plan: Sequence[Update], tensors: Callable[[MicroBatch], Tensors]) -> None:
        self._plan = plan
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> list[Part]:
        shares = [(batch[rank() :: world_size()], batch) for batch in self._plan[number]]
        return [Part(self._tensors(mine or batch[:1]), bool(mine)) for mine, batch in shares]


def _only(items: Sequence[Any]) -> Any:
    (item,) = items
    return item


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
    from transformers.integrations import TensorBoardCallback

    trainer = kind(
        model=net,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=list,  # batches come ready from the plan; TRL's own collator would want a padding token
    )
    trainer.optimizer, trainer.lr_scheduler = (
        setup.optimizers
    )  # as an argument they are refused where weights are sharded
    trainer.updates = Updates(setup.plan, tensors)
    trainer.held_out = Updates([setup.held_out], tensors)
    trainer.on_update = setup.on_update
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    for callback in trainer.callback_handler.callbacks:
        if setup.report is not None and isinstance(callback, TensorBoardCallback):
            callback.logging_dir = callback.logging_dir or str(setup.report.folder)
    return trainer


def settings(kind: Any, net: PreTrainedModel, setup: Setup, **own: object) -> Any:
    """What trainers would do by themselves is off: saving, reports, bars. They log every update.

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
        remove_unused_columns=False,
        use_cache=getattr(net.config, "use_cache", True),  # else the checkpoint's config says: decode without a cache
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        **_reported(setup.report),
        disable_tqdm=True,
        seed=setup.seed,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=False,  # the plan's trainer weighs all processes' tokens
        **own,
    )
    made._n_gpu = min(1, made.n_gpu)  # one GPU of several: TRL refuses torch's DataParallel
    return made


def _reported(report: Report | None) -> dict[str, str]:
    """Settings of the Trainer that say where losses are reported to."""
    if report is None:
        return {"report_to": "none"}
    os.environ.setdefault("WANDB_PROJECT", "rstar")  # it has no other way to be told
    return {"report_to": report.to, "project": "rstar", "run_name": report.name}


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """A tensor of shape (rows, longest), padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def attend_to(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The attention mask of padded rows: shape (rows, longest), 1 where there is a token, 0 at the padding."""
    return pad([[1] * len(row) for row in rows], 0)
