"""The curve by round as a figure: what was measured in colour, with intervals; what others claim in dashed grey."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from rstar_cli.layout import write_bytes
from rstar_cli.report.collect import series, shown_methods, told_methods

COLOURS = {
    "greedy": "#0072B2",
    "mcts": "#D55E00",
    "swor": "#8C3B00",
    "uct": "#E8A27A",
    "puct": "#B35C2E",
    "beam": "#5A5A5A",
    "dvts": "#A0A0A0",
    "best_of_n": "#CC79A7",
    "weighted": "#009E73",
    "majority": "#E69F00",
    "pass": "#56B4E9",
}
"""By kind of method: the palette of Okabe & Ito (2008), told apart under every common colour blindness; the tree
searches beside `mcts`, of which a figure rarely has more than one, in shades of its colour and in greys."""
INK, SOFT, _GREY, FAINT = "#222222", "#5A5A5A", "#8A8A8A", "#E6E6E6"
_SETS = ("#7B5CC4", "#1B8A8A", "#9A8B00")
"""Of sets beside the main one: colours that no method has."""
_MARKERS = "s^vDPX<>"
_DASHES = {"dashed": (4.0, 2.0), "dotted": (1.2, 1.4), "dash-dotted": (6.0, 2.0, 1.2, 2.0)}
_WIDEST = 17
"""Characters of a name that the key has room for."""
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.hashsalt": "rstar",  # else the ids in an SVG are drawn at random
}


def colour_of(method: str) -> str:
    """The colour of a method, as `mcts_top4@16`."""
    return COLOURS[method.partition("@")[0].partition("_top")[0]]


def is_variant(method: str) -> bool:
    """Whether it is another vote over a search that has a line of its own: its dots are hollow."""
    return "_top" in method


class _Line(NamedTuple):
    """One line of the figure.

    Attributes:
        label: its name in the key.
        points: percent by round.
        errors: percentage points below and above each point; None where no interval is drawn.
        style: arguments of `Line2D`.
        aside: how far it is moved along the axis, in rounds, so that no interval hides another.
    """

    label: str
    points: dict[int, float]
    errors: tuple[list[float], list[float]] | None
    style: dict[str, Any]
    aside: float = 0.0


class _Group(NamedTuple):
    """Lines that belong together.

    Attributes:
        heading, column: what the key says above them, and above their last values.
        lines: the highest last value first.
        about: a line below the heading; empty: none.
    """

    heading: str
    column: str
    lines: list[_Line]
    about: str = ""


class _Layout(NamedTuple):
    """Where everything stands, in shares of the figure.

    Attributes:
        size: inches.
        axes: left, bottom, width, height of the curves.
        heads: heights of the title and of the line below it.
        text: left edge of both, and the characters that a line holds.
        key: left, right, and top.
        inch: an inch's share of the width.
        step: height of a row of the key; 0: what fits.
    """

    size: tuple[float, float]
    axes: tuple[float, float, float, float]
    heads: tuple[float, float]
    text: tuple[float, int]
    key: tuple[float, float, float]
    inch: float
    step: float = 0.0


def draw_curve(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the accuracy by round and write `accuracy_by_round.svg` and `.png`; equal reports give equal bytes.

    Args:
        report: as `collect` gives it.
        folder: where to; made where there is none.

    Returns:
        The two files; none where nothing was measured.

    Raises:
        StorageError: they can't be written.
    """
    if not report["sets"]:
        return []
    paths = [folder / "accuracy_by_round.svg", folder / "accuracy_by_round.png"]
    for path in paths:
        write_bytes(path, _drawn(report, path.suffix[1:]))
    return paths


def draw_figure(report: dict[str, Any], *, narrow: bool = False) -> str:
    """The same as SVG text; its words are text, too, and it has no background.

    Args:
        report: as `collect` gives it.
        narrow: with the key below the curves, for a phone.
    """
    own = {"svg.fonttype": "none", "savefig.transparent": True, "svg.hashsalt": f"rstar {narrow}"}
    return _drawn(report, "svg", own, narrow=narrow).decode()


def _drawn(report: dict[str, Any], kind: str, more: dict[str, Any] | None = None, *, narrow: bool = False) -> bytes:
    from matplotlib import style

    with style.context(["default", _STYLE, more or {}]):  # whatever the user's own matplotlibrc says
        drawn = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        _figure(report, narrow).savefig(drawn, format=kind, dpi=200, metadata=metadata)
    return drawn.getvalue()


def _layout(rows: float, narrow: bool) -> _Layout:
    """Where everything stands: 8 by 4.5 inches, or as narrow as a phone and as high as the key asks for."""
    if not narrow:
        return _Layout((8, 4.5), (0.075, 0.13, 0.625, 0.68), (0.925, 0.868), (0.025, 90), (0.735, 0.975, 0.8), 1 / 8)
    step = 0.19  # inches a row of the key
    height = 4.0 + step * rows
    axes = (0.135, 1 - 3.35 / height, 0.84, 2.5 / height)
    return _Layout(
        (4, height),
        axes,
        (1 - 0.2 / height, 1 - 0.52 / height),
        (0.01, 52),
        (0.02, 0.97, 1 - 4.15 / height),
        1 / 4,
        step / height,
    )


def _figure(report: dict[str, Any], narrow: bool) -> Any:
    """The whole figure: heading, curves, and the key at their right or below them."""
    from matplotlib.figure import Figure

    main, *others = report["sets"]
    groups = _groups(report, main, others)
    rows = sum(len(group.lines) + bool(group.about) + 1.7 for group in groups)
    layout = _layout(rows, narrow)
    figure = Figure(figsize=layout.size, facecolor="white")
    axes = figure.add_axes(layout.axes)
    curves = [line for group in groups for line in group.lines]
    for depth, line in enumerate(curves):
        rounds = [number + line.aside for number in line.points]
        axes.errorbar(
            rounds, list(line.points.values()), yerr=line.errors, zorder=50 - depth, elinewidth=0.9, **line.style
        )
    last = max(number for line in curves for number in line.points)
    axes.set(xlim=(-0.25, last + 0.25), ylim=(0, 100), xlabel="round of self-training (0: the base)")
    axes.set_xticks(range(last + 1))
    axes.set_yticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.tick_params(length=0, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    left, characters = layout.text
    title, about = layout.heads
    figure.text(left, title, f"Accuracy on {main} by round", size=13, weight="bold")
    figure.text(left, about, fill(_about(report, main), characters), color=SOFT, va="center" if narrow else "baseline")
    _key(figure, groups, layout, layout.step or 0.78 / max(rows, 17))
    return figure


def _groups(report: dict[str, Any], main: str, others: Sequence[str]) -> list[_Group]:
    """What there is to draw: the main set's methods, other sets, and claims."""
    asked = [
        ("measured", "", _measured(report, main), ""),
        ("other sets", "", _others(report, others), "greedy decoding"),
        ("claimed", "their ", _claimed(report["claims"]), "for a 7B model, on MATH"),
    ]
    return [
        _Group(heading, f"{whose}{_ends(lines)}, %", sorted(lines, key=_last, reverse=True), about)
        for heading, whose, lines, about in asked
        if lines
    ]


def _ends(lines: Sequence[_Line]) -> str:
    """The round that all lines end with, in words."""
    ends = {max(line.points) for line in lines}
    return f"round {ends.pop()}" if len(ends) == 1 else "last round"


def claims_told(report: dict[str, Any]) -> str:
    """A sentence that says which line is whose claim."""
    told = [f"{look}, {label}" for label, look in zip(report["claims"], _DASHES, strict=True)]
    return (
        f"The grey curves are claims of others, for a 7B model on MATH: {'; '.join(told)} "
        "(the paper: rStar-Math, arXiv 2501.04519). Their numbers are of their own last round; "
        "nothing of them was measured here."
    )


def _about(report: dict[str, Any], name: str) -> str:
    """On how many problems the main set's figures rest, and whose they are."""
    greedy, *others = (
        max(figures["n"] for figures in series(report, name, method).values()) for method in shown_methods(report, name)
    )
    fewer = f", samples and search on {max(others):,}" if others and max(others) != greedy else ""
    base = "/".join(Path(report["run"]["base"]).parts[-2:])  # a hub id whole, of a long path its end
    seed = report["run"]["seed"]
    return f"{greedy:,} problems{fewer}; 95\u00a0%\u00a0intervals; base\u00a0{base}, seed\u00a0{seed}"


def _measured(report: dict[str, Any], name: str) -> list[_Line]:
    """The main set's methods."""
    methods = told_methods(report, name)
    lines = []
    for place, method in enumerate(methods):
        found = series(report, name, method)
        pairs = [(figures["accuracy"], figures["ci95"]) for figures in found.values()]
        below = [100 * max(0.0, share - low) for share, (low, _) in pairs]
        above = [100 * max(0.0, high - share) for share, (_, high) in pairs]
        style = {
            "color": colour_of(method),
            "linewidth": 2.2 if method == "greedy" else 1.4,
            "marker": "o",
            "markersize": 5 if method == "greedy" else 4,
            "markerfacecolor": "white" if is_variant(method) else None,
        }
        aside = 0.04 * (place - (len(methods) - 1) / 2)
        lines.append(_Line(method, _percent(found), (below, above), style, aside))
    return lines


def _others(report: dict[str, Any], names: Sequence[str]) -> list[_Line]:
    style = {"linewidth": 1, "markersize": 4, "markerfacecolor": "white"}
    return [
        _Line(name, _percent(series(report, name, "greedy")), None, {**style, "marker": marker, "color": colour})
        for name, marker, colour in zip(names, cycle(_MARKERS), cycle(_SETS), strict=False)
    ]


def _claimed(claims: dict[str, Any]) -> list[_Line]:
    lines = []
    for (label, claim), dashes in zip(claims.items(), _DASHES.values(), strict=True):
        points = {number: 100 * share for number, share in enumerate(claim["accuracy"]) if share is not None}
        lines.append(_Line(label, points, None, {"color": _GREY, "linewidth": 1.2, "linestyle": (0, dashes)}))
    return lines


def _percent(found: dict[int, dict[str, Any]]) -> dict[int, float]:
    return {number: 100 * figures["accuracy"] for number, figures in found.items()}


def _key(figure: Any, groups: Sequence[_Group], layout: _Layout, step: float) -> None:
    """The key: by group, each line's look, name and last value, the highest first.

    By hand: a legend of matplotlib has neither groups nor a column of numbers.
    """
    from matplotlib.lines import Line2D

    (left, right, height), inch = layout.key, layout.inch
    for heading, column, lines, about in groups:
        figure.text(left, height, heading, va="center_baseline", weight="bold", size=8.5)
        figure.text(right, height, column, ha="right", va="center_baseline", size=7.5, color=SOFT)
        if about:
            height -= step
            figure.text(left, height, about, va="center_baseline", size=7.5, color=SOFT)
        for line in lines:
            height -= step
            figure.add_artist(
                Line2D([left, left + 0.144 * inch, left + 0.288 * inch], [height] * 3, markevery=[1], **line.style)
            )
            label = line.label if len(line.label) <= _WIDEST else line.label[: _WIDEST - 3] + "…"
            figure.text(left + 0.384 * inch, height, label, va="center_baseline")
            figure.text(right, height, f"{_last(line):.1f}", ha="right", va="center_baseline")
        height -= 1.7 * step


def _last(line: _Line) -> float:
    return list(line.points.values())[-1]
