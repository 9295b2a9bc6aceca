"""What each chart of the report draws into its axes; of data that is not there, None instead of a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor
from typing import Any, NamedTuple

from rstar_cli.metrics import wilson
from rstar_cli.report.collect import last_figures, series, told_methods
from rstar_cli.report.figure import COLOURS, colour_of, is_variant

INK, LINE, ON = "#010203", "#E6E6E7", "#FDFDFE"
"""Text, faint lines, and text on the palette's first colour; in a page they stand for its own colours."""
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A", "#B8A500")
_LONGEST = 26
"""Characters of a subject's name that there is room for."""
_MARKERS = "sD^v"
"""Of the rounds that are drawn faintly, one after another."""
_LOW = 0.02
"""A share below has no number in a histogram."""

Draw = Callable[[Any], None]
"""Draws into matplotlib's axes."""
Shares = Mapping[int, tuple[float, tuple[float, float]]]
"""By round: a share and its interval, in [0, 1]."""
_TICKS = ((0.11, 0.02), (0.26, 0.05), (0.51, 0.1), (1.0, 0.25))
"""Of a percent axis: the widest that has a step, and the step."""


class Drawing(NamedTuple):
    """What a chart shows.

    Attributes:
        draw: draws it.
        bars: how many bars, or rows of a bar's height, lie below each other; 0: it is no chart of such bars.
        notes: words of its key that need one, with their explanation.
        heads, rows: the same in numbers, where not every part has room for its own.
    """

    draw: Draw
    bars: int = 0
    notes: Mapping[str, str] = {}
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def by_level(report: dict[str, Any]) -> Drawing | None:
    """Greedy accuracy on the main set by round, a line a level."""
    found = series(report, report["sets"][0], "greedy") if report["sets"] else {}
    levels = sorted({level for figures in found.values() for level in figures["by_level"]}, key=int)
    lines = {
        f"level {level}": {
            n: (f["by_level"][level]["accuracy"], f["by_level"][level]["ci95"])
            for n, f in found.items()
            if level in f["by_level"]
        }
        for level in levels
    }
    return Drawing(_by_round(lines, "greedy accuracy")) if len(lines) > 1 else None


def coverage(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """Share of training problems with a right solution by round, a line a level."""
    levels = sorted({level for entry in rounds for level in entry["coverage"]})
    lines = {
        f"level {level}": {
            entry["round"]: (solved / count, wilson(solved, count))
            for entry in rounds
            for solved, count in [entry["coverage"].get(level, (0, 0))]
            if count
        }
        for level in levels
    }
    return Drawing(_by_round(lines, "problems solved")) if lines else None


def _by_round(lines: Mapping[str, Shares], label: str) -> Draw:
    """Lines over the rounds, moved a little apart so that no interval hides another.

    Where all of them are high, the axis begins a little below the lowest, and says so.
    """
    lowest = min(low for points in lines.values() for _, (low, _) in points.values())
    begin = floor(20 * lowest) / 20 if lowest >= 0.5 else 0.0

    def draw(axes: Any) -> None:
        for place, (name, points) in enumerate(lines.items()):
            aside = 0.08 * (place - (len(lines) - 1) / 2)
            shares = [share for share, _ in points.values()]
            axes.errorbar(
                [number + aside for number in points],
                shares,
                yerr=_errors(points.values()),
                color=PALETTE[place % len(PALETTE)],
                marker="o",
                markersize=4,
                elinewidth=0.8,
                label=name,
            )
        numbers = sorted({number for points in lines.values() for number in points})
        axes.set_xticks(numbers)
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
        axes.set_xlabel("round")
        axes.set_ylabel(f"{label} (axis from {100 * begin:.0f} %)" if begin else label)
        _percent(axes, "y", begin)
        _key(axes)

    return draw


def _errors(points: Iterable[tuple[float, Sequence[float]]]) -> list[list[float]]:
    """How far each interval reaches below and above its share."""
    pairs = [(max(0.0, share - low), max(0.0, high - share)) for share, (low, high) in points]
    return [[below for below, _ in pairs], [above for _, above in pairs]]


def by_subject(report: dict[str, Any]) -> Drawing | None:
    """Greedy accuracy by subject, a bar each, the best first."""
    figures = last_figures(report).get("greedy", {}).get("by_subject") or {}
    if len(figures) < 2:
        return None
    subjects = sorted(figures, key=lambda name: -figures[name]["accuracy"])

    def draw(axes: Any) -> None:
        shares = [(figures[name]["accuracy"], figures[name]["ci95"]) for name in subjects]
        axes.barh(
            range(len(subjects)),
            [share for share, _ in shares],
            xerr=_errors(shares),
            color=PALETTE[0],
            ecolor=INK,
            error_kw={"elinewidth": 0.8},
            height=0.62,
        )
        cut = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in subjects]
        axes.set_yticks(
            range(len(subjects)),
            [f"{name} ({figures[full]['n']})" for name, full in zip(cut, subjects, strict=True)],
        )
        for place, (share, _) in enumerate(shares):  # beyond the axis, where no interval reaches
            beyond = axes.get_yaxis_transform()
            axes.text(1.02, place, f"{100 * share:.0f} %", transform=beyond, va="center", fontsize=9)
        axes.invert_yaxis()
        _percent(axes, "x")
        axes.set_xlabel("greedy accuracy (problems)")

    return Drawing(draw, len(subjects))


def by_tokens(report: dict[str, Any], same: dict[str, Any] | None) -> Drawing | None:
    """Accuracy against generated tokens a problem, a dot a method; those of equal cost stand a little apart.

    Of a single method there is nothing to compare, and no drawing.

    Args:
        report: as `collect` gives it.
        same: figures of greedy decoding on the other methods' problems, where they were given fewer; else None.
    """
    methods = last_figures(report) | ({"greedy": same} if same else {})
    shown = [method for method in told_methods(report, report["sets"][0]) if method in methods] if methods else []
    if len(shown) < 2:
        return None

    def draw(axes: Any) -> None:
        from matplotlib.ticker import LogLocator

        seen: dict[int, int] = {}
        for method in shown:
            figures = methods[method]
            cost = figures["tokens"] / figures["n"]
            beside = seen[round(cost)] = seen.get(round(cost), -1) + 1
            axes.errorbar(
                max(cost, 0.5) * 1.07**beside,
                figures["accuracy"],
                yerr=_errors([(figures["accuracy"], figures["ci95"])]),
                fmt="o",
                color=colour_of(method),
                markerfacecolor="none" if is_variant(method) else None,
                label=method,
                elinewidth=1,
            )
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, high / 12), high * 1.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel("generated tokens a problem (logarithmic)")
        axes.set_ylabel("accuracy")
        _percent(axes, "y")
        _key(axes)

    return Drawing(draw)


def by_samples(report: dict[str, Any]) -> Drawing | None:
    """Accuracy by how many samples are used, a line a method; the line of theory is dashed."""
    curves = {method: figures["by_n"] for method, figures in last_figures(report).items() if figures.get("by_n")}
    theory: dict[str, float] = next(
        (figures["theory"] for figures in last_figures(report).values() if figures.get("theory")), {}
    )

    def draw(axes: Any) -> None:
        for place, (method, curve) in enumerate(curves.items()):
            kind = method.partition("@")[0]
            points = {int(n): (found["accuracy"], found["ci95"]) for n, found in curve.items()}
            axes.errorbar(
                [n * 1.03 ** (place - (len(curves) - 1) / 2) for n in points],
                [share for share, _ in points.values()],
                yerr=_errors(points.values()),
                color=COLOURS[kind],
                marker="o",
                markersize=4,
                elinewidth=0.8,
                label=kind,
            )
        if theory:
            dashes = {"linestyle": (0, (4, 2)), "linewidth": 1, "color": INK}
            axes.plot([int(n) for n in theory], list(theory.values()), label="1 − (1 − p)ⁿ", **dashes)
        sizes = sorted({int(n) for curve in curves.values() for n in curve})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("samples a problem")
        axes.set_ylabel("accuracy")
        _percent(axes, "y")
        _key(axes)

    return Drawing(draw) if curves else None


def calibration(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """Share of right solutions by the chance that the PRM gives them: the last round, earlier ones faint behind it.

    Bars of several rounds would hide each other, so the last one's alone are drawn.
    """
    known = [entry for entry in rounds if entry["calibration"]]

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        for place, entry in enumerate(known):
            chances, shares, counts = zip(*entry["calibration"], strict=True)
            name = f"round {entry['round']}"
            if entry is not known[-1]:
                seen = 0.25 + 0.35 * place / len(known)  # the nearer to the last, the clearer
                marker = _MARKERS[place % len(_MARKERS)]
                axes.plot(
                    chances, shares, color=PALETTE[6], alpha=seen, linewidth=1, marker=marker, markersize=4, label=name
                )
                continue
            bounds = [wilson(round(share * n), n) for share, n in zip(shares, counts, strict=True)]
            errors = _errors(zip(shares, bounds, strict=True))
            axes.errorbar(
                chances, shares, yerr=errors, color=PALETTE[0], marker="o", markersize=4, elinewidth=0.8, label=name
            )
        _percent(axes, "x")
        _percent(axes, "y")
        axes.set_xlabel("chance by the PRM: (value + 1) / 2")
        axes.set_ylabel("right")
        _key(axes)

    return Drawing(draw) if known else None


def q_values(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """Distribution of Q over visited steps, a row a round, all to one scale."""
    known = [(entry["round"], entry["searches"].q) for entry in rounds if sum(entry["searches"].q)]
    shares = [[count / sum(counts) for count in counts] for _, counts in known]

    def draw(axes: Any) -> None:
        highest = max(max(row) for row in shares)
        for place, row in enumerate(shares):
            width = 2 / len(row)
            centres = [width * (i + 0.5) - 1 for i in range(len(row))]
            heights = [0.72 * share / highest for share in row]
            axes.bar(centres, heights, 0.86 * width, bottom=-place, color=PALETTE[0])
            axes.axhline(-place, color=LINE, linewidth=0.8, zorder=0)
            for i in _peaks(row):
                axes.text(centres[i], heights[i] - place + 0.04, f"{100 * row[i]:.0f} %", ha="center", fontsize=8)
        names = [f"round {number}\n{sum(counts):,} steps" for number, counts in known]
        axes.set_yticks([0.3 - place for place in range(len(names))], names)
        axes.set_ylim(1 - len(known), 1)
        axes.set_xlim(-1.07, 1.07)
        axes.spines["left"].set_visible(False)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
        axes.set_xlabel("Q (−1: all wrong, 1: all right)")

    return Drawing(draw, 2 * len(known)) if known else None


def _peaks(shares: Sequence[float]) -> list[int]:
    """Bars that have a number: not low ones, and of near ones the highest."""
    near = [shares[max(0, i - 2) : i + 3] for i in range(len(shares))]
    return [i for i, share in enumerate(shares) if share >= _LOW and share == max(near[i])]


def _percent(axes: Any, axis: str, begin: float = 0.0) -> None:
    """An axis from `begin` to 100 %, with lines; what stands on its ends is not cut."""
    room = 0.015 * (1 - begin)
    getattr(axes, f"set_{axis}lim")(begin - room, 1 + room)
    step = next(step for widest, step in _TICKS if 1 - begin <= widest)
    ticks = [1 - step * i for i in range(floor((1 - begin) / step + 1e-9) + 1)]
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.grid(axis=axis, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _key(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
