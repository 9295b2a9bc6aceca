"""The report page's charts, drawn by matplotlib as SVG that takes its text colour and font from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rstar_cli.config import STAGES
from rstar_cli.report import figure
from rstar_cli.report.collect import series, shown_methods
from rstar_cli.report.figure import COLOURS, draw_figure

_INK, _LINE = "#010203", "#E6E6E7"
"""Stand for the page's colours of text and of faint lines, which the SVG takes by reference."""
_OWN = {
    _INK: "currentColor",
    _LINE: "var(--line)",
    figure.INK: "currentColor",
    figure.SOFT: "var(--soft)",
    figure.FAINT: "var(--line)",
}
_STYLE = {
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "rstar",
    "savefig.transparent": True,
}
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A", "#B8A500")
CHOICES = {
    "kept": "trains the policy",
    "surplus": "right, beyond the best",
    "duplicate": "right, a duplicate",
    "unlikely": "right, unlikely",
    "not_right": "not right",
}

Draw = Callable[[Any], None]


def charts(report: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(title, what it shows, SVG) of each chart that there is data for.

    Args:
        report: as `collect` gives it.
        found: as `gather` gives it.
    """
    rounds = found["rounds"]
    asked: list[tuple[str, str, Draw | None]] = [
        ("Accuracy by level", "Greedy decoding on the main set; a line a level.", _by_level(report)),
        ("Accuracy against tokens", "The last evaluated round, with 95 % intervals.", _by_tokens(report)),
        (
            "PRM calibration",
            "Of sampled solutions: how sure the PRM is, and how many are right. On the line it would be exact.",
            _calibration(rounds),
        ),
        ("Q of visited steps", "Mean reward of each step that a rollout passed, by round.", _q(rounds)),
        ("What became of candidates", "Share of all candidate steps of a round's searches.", _fates(rounds)),
        ("Solutions kept for training", "Share of a round's finished solutions.", _kept(rounds)),
        ("Time by stage", "Wall-clock minutes.", _time(rounds)),
    ]
    curve = [("Accuracy by round", "", themed(draw_figure(report)))] if report["sets"] else []
    return curve + [(title, about, _svg(draw)) for title, about, draw in asked if draw is not None]


def themed(svg: str) -> str:
    """An SVG with the page's colours and font instead of its own, without the lines above its root."""
    body = svg[svg.index("<svg") :]
    for fixed, own in _OWN.items():
        body = body.replace(fixed.lower(), own)  # as matplotlib writes colours
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg xmlns="http://www.w3.org/2000/svg" \1 role="img">', body, count=1
    )


def _svg(draw: Draw) -> str:
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        drawing = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = drawing.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.5)
        axes.tick_params(length=0)
        draw(axes)
        drawn = io.StringIO()
        drawing.savefig(drawn, format="svg", metadata={"Date": None})
    return themed(drawn.getvalue())


def _percent(axes: Any, axis: str) -> None:
    getattr(axes, f"set_{axis}lim")(0, 1)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.grid(axis=axis, color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _key(axes: Any, columns: int = 1) -> None:
    axes.legend(
        frameon=False, fontsize=8, ncols=columns, loc="upper left", bbox_to_anchor=(1, 1) if columns == 1 else None
    )


def _by_level(report: dict[str, Any]) -> Draw | None:
    if not report["sets"]:
        return None
    found = series(report, report["sets"][0], "greedy")
    levels = sorted({level for figures in found.values() for level in figures["by_level"]})
    if len(levels) < 2:
        return None

    def draw(axes: Any) -> None:
        for place, level in enumerate(levels):
            points = {n: f["by_level"][level]["accuracy"] for n, f in found.items() if level in f["by_level"]}
            colour = _PALETTE[place % len(_PALETTE)]
            axes.plot(
                list(points), list(points.values()), color=colour, marker="o", markersize=4, label=f"level {level}"
            )
        _rounds(axes, found)
        _percent(axes, "y")
        _key(axes)

    return draw


def _rounds(axes: Any, numbers: Iterable[int]) -> None:
    axes.set_xticks(sorted(numbers))
    axes.set_xlabel("round")


def _by_tokens(report: dict[str, Any]) -> Draw | None:
    name = next(iter(report["sets"]), "")
    evaluated = [entry for entry in report["rounds"] if name in entry["eval"]]
    if not evaluated:
        return None
    methods = evaluated[-1]["eval"][name]
    shown = [method for method in shown_methods(report, name) if method in methods]

    def draw(axes: Any) -> None:
        from matplotlib.ticker import LogLocator

        for method in shown:
            figures = methods[method]
            share, (low, high) = figures["accuracy"], figures["ci95"]
            axes.errorbar(
                figures["tokens"] / figures["n"],
                share,
                yerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
                fmt="o",
                color=COLOURS[method.partition("@")[0]],
                label=method,
                elinewidth=1,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("generated tokens a problem")
        _percent(axes, "y")
        _key(axes)

    return draw


def _calibration(rounds: Sequence[dict[str, Any]]) -> Draw | None:
    known = [entry for entry in rounds if entry["calibration"]]
    if not known:
        return None

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.6, linestyle=(0, (4, 3)))
        for place, entry in enumerate(known):
            chances, shares, _ = zip(*entry["calibration"], strict=True)
            colour = _PALETTE[place % len(_PALETTE)]
            axes.plot(chances, shares, color=colour, marker="o", markersize=4, label=f"round {entry['round']}")
        _percent(axes, "x")
        _percent(axes, "y")
        axes.set_xlabel("chance by the PRM, (v + 1) / 2")
        axes.set_ylabel("share right")
        _key(axes)

    return draw


def _q(rounds: Sequence[dict[str, Any]]) -> Draw | None:
    known = [entry for entry in rounds if sum(entry["q"])]
    if not known:
        return None

    def draw(axes: Any) -> None:
        for place, entry in enumerate(known):
            bins = len(entry["q"])
            edges = [2 * i / bins - 1 for i in range(bins + 1)]
            shares = [count / sum(entry["q"]) for count in entry["q"]]
            axes.stairs(shares, edges, color=_PALETTE[place % len(_PALETTE)], label=f"round {entry['round']}")
        axes.set_xlim(-1, 1)
        axes.set_xlabel("Q")
        axes.set_ylabel("share of visited steps")
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        _key(axes)

    return draw


def _stacked(rounds: Sequence[dict[str, Any]], parts: dict[str, list[float]], label: str) -> Draw:
    """Horizontal bars, one a round, of parts that lie side by side."""

    def draw(axes: Any) -> None:
        places = list(range(len(rounds)))
        left = [0.0] * len(rounds)
        for (name, values), colour in zip(parts.items(), _PALETTE, strict=False):
            axes.barh(places, values, left=left, color=colour, label=name, height=0.62)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(places, [f"round {entry['round']}" for entry in rounds])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.margins(x=0)
        axes.figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper left")

    return draw


def _shares(rounds: Sequence[dict[str, Any]], key: str, names: dict[str, str]) -> Draw | None:
    known = [entry for entry in rounds if sum(entry[key].values())]
    parts = {
        title: [entry[key].get(name, 0) / sum(entry[key].values()) for entry in known] for name, title in names.items()
    }
    draw = _stacked(known, {title: values for title, values in parts.items() if any(values)}, "")

    def with_percent(axes: Any) -> None:
        draw(axes)
        _percent(axes, "x")

    return with_percent if known else None


def _fates(rounds: Sequence[dict[str, Any]]) -> Draw | None:
    names = dict.fromkeys(name for entry in rounds for name in sorted(entry["fates"], key=lambda n: -entry["fates"][n]))
    return _shares(rounds, "fates", {name: name for name in names})


def _kept(rounds: Sequence[dict[str, Any]]) -> Draw | None:
    return _shares(rounds, "choices", CHOICES)


def _order(stage: str) -> int:
    return list(STAGES).index(stage) if stage in STAGES else len(STAGES)


def _time(rounds: Sequence[dict[str, Any]]) -> Draw | None:
    known = [entry for entry in rounds if any(told["seconds"] for told in entry["stages"].values())]
    if not known:
        return None
    stages = sorted({name.split()[0] for entry in known for name in entry["stages"]}, key=_order)
    parts = {
        stage: [
            sum(told["seconds"] for name, told in entry["stages"].items() if name.split()[0] == stage) / 60
            for entry in known
        ]
        for stage in stages
    }
    return _stacked(known, parts, "minutes")
