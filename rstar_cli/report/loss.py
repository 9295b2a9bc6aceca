"""The loss of a training by update, as a figure beside its checkpoint."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_cli.jsonl import read_objects
from rstar_cli.layout import write_bytes
from rstar_cli.ranks import is_main

FIGURE = "loss.png"
_LOSS, _HELD_OUT, _FAINT, _SOFT = "#0072B2", "#D55E00", "#E6E6E6", "#5A5A5A"


def draw_loss(checkpoint: Path, unit: str) -> Path:
    """Draw a checkpoint's `train_log.jsonl` into its `loss.png`; equal logs give equal bytes, clock times aside.

    Args:
        checkpoint: directory of the checkpoint.
        unit: what the loss is a mean over, as `token`.

    Raises:
        DataError: the log can't be read.
        StorageError: the figure can't be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    rows: list[dict[str, Any]] = [row for _, row in read_objects(checkpoint / "train_log.jsonl")]
    updates, losses = [row["update"] for row in rows], [row["loss"] for row in rows]
    apart = [(row["update"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]
    with style.context("default"):  # whatever the user's own matplotlibrc says
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(updates, losses, color=_LOSS, alpha=0.25, linewidth=1)
        axes.plot(updates, _smoothed(losses), color=_LOSS, linewidth=1.6, label="training, smoothed")
        if apart:
            axes.plot(*zip(*apart, strict=True), color=_HELD_OUT, marker="o", markersize=3, label="held out")
        axes.set(xlabel="update", ylabel=f"loss, nats a {unit}", xlim=(0, updates[-1]), ylim=(0, None))
        axes.grid(axis="y", color=_FAINT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_SOFT)
        axes.legend(frameon=False)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
    write_bytes(checkpoint / FIGURE, drawn.getvalue())
    return checkpoint / FIGURE


def draw_absent_loss(checkpoint: Path, unit: str) -> None:
    """Draw the figure where it is not there: a process may be killed between a training's end and its figure."""
    if is_main() and not (checkpoint / FIGURE).exists() and (checkpoint / "train_log.jsonl").exists():
        draw_loss(checkpoint, unit)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Mean of the losses around each: of a twentieth of them all."""
    beside = len(losses) // 40
    around = [losses[max(0, i - beside) : i + beside + 1] for i in range(len(losses))]
    return [sum(near) / len(near) for near in around]
