"""The equal-budget curves, as a table to read and as a plot."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rstar_cli.layout import write_bytes

_COLOURS = {
    "greedy": "#000000",
    "best-of-n": "#CC79A7",
    "swor": "#D55E00",
    "mcts": "#0072B2",
    "uct": "#56B4E9",
    "puct": "#009E73",
    "beam": "#E69F00",
    "dvts": "#8A8A8A",
}
"""The palette of Okabe & Ito (2008) and a grey."""

_TITLES = {
    "early_stop": "solved, each search ending with its first right answer",
    "solved": "solved within the budget",
    "majority": "right by vote, gold unseen",
    "selected": "right by the PRM's choice, gold unseen",
}


def describe(report: Mapping[str, Any]) -> dict[str, str]:
    """Name to text, in the order to show."""
    shown: dict[str, str] = {"problems": f"{report['problems']}, seed {report['seed']}"}
    for method, points in report["early_stop"].items():
        shown[f"{method}: solved, early stop"] = _line(points)
    for method, gains in report.get("against_best_of_n", {}).items():
        shown[f"{method} less best-of-n, early stop"] = ", ".join(
            f"{100 * g['gain']:+.1f} ({100 * g['ci95'][0]:+.1f} to {100 * g['ci95'][1]:+.1f}) at {g['tokens']:.0f}"
            for g in gains
        )
    for kind in ("solved", "majority", "selected"):
        for method, curves in report["methods"].items():
            if kind in curves:
                shown[f"{method}: {kind}"] = _line(curves[kind])
    return shown


def _line(points: list[dict[str, Any]]) -> str:
    return ", ".join(f"{100 * p['accuracy']:.1f} at {p['tokens']:.0f}" for p in points)


def draw(report: Mapping[str, Any], path: Path) -> Path:
    """Plot the curves with their 95 % intervals and write them, as SVG or PNG by the path's suffix.

    Raises:
        StorageError: the file can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    curves = {"early_stop": report["early_stop"]}
    for kind in ("solved", "majority", "selected"):
        curves[kind] = {name: found[kind] for name, found in report["methods"].items() if kind in found}
    curves = {kind: found for kind, found in curves.items() if found}
    figure = Figure(figsize=(5 * len(curves), 4), layout="constrained")
    for axes, (kind, found) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for method, points in found.items():
            values = [100 * p["accuracy"] for p in points]
            below = [max(0.0, value - 100 * p["ci95"][0]) for value, p in zip(values, points, strict=True)]
            above = [max(0.0, 100 * p["ci95"][1] - value) for value, p in zip(values, points, strict=True)]
            axes.errorbar(
                [p["tokens"] for p in points],
                values,
                yerr=(below, above),
                label=method,
                color=_COLOURS[method],
                marker="o",
                markersize=3,
                elinewidth=0.7,
                linewidth=1.2,
            )
        axes.set(xscale="log", xlabel="generated tokens a problem", ylabel="%", title=_TITLES[kind], ylim=(0, 100))
        axes.set_xticks([50, 100, 200, 500, 1000, 2000, 5000])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        spent = [p["tokens"] for points in found.values() for p in points]
        axes.set_xlim(0.9 * min(spent), 1.1 * max(spent))
        axes.title.set_size(9)
        axes.grid(color="#E6E6E6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
    write_bytes(path, drawn.getvalue())
    return path
