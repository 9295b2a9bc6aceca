"""Optimizers: AdamW, or Muon for the matrices inside the blocks with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


def make_optimizer(
    model: nn.Module, kind: Literal["adamw", "muon"], *, learning_rate: float, weight_decay: float
) -> Optimizer:
    """Make the optimizer of a model's trainable parameters.

    Muon (Jordan et al. 2024; `torch.optim.Muon`) takes every matrix that is neither an embedding nor the output head.
    A matrix of one row, such as the head of a reward model, is a vector: to make it orthogonal is to normalise it.
    Its updates are scaled to AdamW's root mean square (Moonlight, arXiv 2502.16982), so that one learning rate serves
    both. Weight decay applies to matrices, not to norms and biases.

    Args:
        model: the model, on its device.
        kind: `adamw` or `muon`.
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    inner = _inner_matrices(model, trainable) if kind == "muon" else []
    taken = set(inner)
    outer = [p for p in trainable if p not in taken]
    parts: list[Optimizer] = []
    if inner:
        from torch.optim import Muon

        parts.append(Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if outer:
        from torch.optim import AdamW

        matrices, vectors = [p for p in outer if p.ndim >= 2], [p for p in outer if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        parts.append(AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.95), fused=True))
    return parts[0] if len(parts) == 1 else _joined(parts)


def linear_schedule(optimizer: Optimizer, updates: int, warmup: float) -> LambdaLR:
    """Linear rise over the first share of the updates, then linear decay to 0.

    The first update already has a positive rate (the scheduler of transformers starts at 0 and so wastes it), which
    counts where a run has a few dozen updates.

    Args:
        optimizer: whose learning rate is driven.
        updates: of the whole run.
        warmup: share of them, 0 to 1, in which the rate rises.
    """
    from torch.optim.lr_scheduler import LambdaLR

    rise = max(1, round(warmup * updates))

    def factor(done: int) -> float:
        return min((done + 1) / rise, (updates - done) / max(1, updates - rise + 1), 1.0)

    return LambdaLR(optimizer, factor)


def _inner_matrices(model: nn.Module, trainable: list[nn.Parameter]) -> list[nn.Parameter]:
    """The matrices that are neither embeddings nor the output head (which may be one and the same)."""
    from torch.nn import Embedding

    outside = {p for module in model.modules() if isinstance(module, Embedding) for p in module.parameters()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        outside |= set(head.parameters())
    return [p for p in trainable if p.ndim == 2 and min(p.shape) > 1 and p not in outside]


def _joined(parts: list[Optimizer]) -> Optimizer:
    """One optimizer that steps several: the parts share its parameter groups and its state, by reference."""
    import torch

    class Joined(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__([group for part in parts for group in part.param_groups], {})
            self._share()

        def _share(self) -> None:
            start = 0
            for part in parts:
                end = start + len(part.param_groups)
                part.state = self.state
                part.param_groups = self.param_groups[start:end]
                start = end

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)  # makes new groups and a new state
            self._share()

        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for part in parts:
                part.step()
            return loss

    return Joined()
