"""What each chart of the report draws into its axes; of data that is not there, None instead of a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rstar_cli.config import STAGES
from rstar_cli.metrics import wilson
from rstar_cli.report.collect import series, told_methods
from rstar_cli.report.figure import COLOURS
from rstar_cli.report.searches import RAN

INK, LINE = "#010203", "#E6E6E7"
"""Text, and faint lines; in a page they stand for its own colours."""
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A", "#B8A500")
_CHOICES = {
    "kept": "trains the policy",
    "surplus": "right, beyond the best",
    "duplicate": "right, a duplicate",
    "unlikely": "right, unlikely",
    "not_right": "not right",
}
_LONGEST = 26
"""Characters of a subject's name that there is room for."""

Draw = Callable[[Any], None]
"""Draws into matplotlib's axes."""
Shares = Mapping[int, tuple[float, tuple[float, float]]]
"""By round: a share and its interval, in [0, 1]."""


def by_level(report: dict[str, Any]) -> tuple[Draw, int] | None:
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
    return (_by_round(lines, "greedy accuracy"), 0) if len(lines) > 1 else None


def coverage(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
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
    return (_by_round(lines, "problems solved"), 0) if lines else None


def _by_round(lines: Mapping[str, Shares], label: str) -> Draw:
    """Lines over the rounds, moved a little apart so that no interval hides another."""

    def draw(axes: Any) -> None:
        for place, (name, points) in enumerate(lines.items()):
            aside = 0.05 * (place - (len(lines) - 1) / 2)
            shares = [share for share, _ in points.values()]
            axes.errorbar(
                [number + aside for number in points],
                shares,
                yerr=_errors(points.values()),
                color=_PALETTE[place % len(_PALETTE)],
                marker="o",
                markersize=4,
                elinewidth=0.8,
                label=name,
            )
        numbers = sorted({number for points in lines.values() for number in points})
        axes.set_xticks(numbers)
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
        axes.set_xlabel("round")
        axes.set_ylabel(label)
        _percent(axes, "y")
        _key(axes)

    return draw


def _errors(points: Iterable[tuple[float, Sequence[float]]]) -> list[list[float]]:
    """How far each interval reaches below and above its share."""
    pairs = [(max(0.0, share - low), max(0.0, high - share)) for share, (low, high) in points]
    return [[below for below, _ in pairs], [above for _, above in pairs]]


def _last(report: dict[str, Any]) -> dict[str, Any]:
    """Figures by method of the main set, in the last round that evaluated it."""
    name = next(iter(report["sets"]), "")
    found: list[dict[str, Any]] = [entry["eval"][name] for entry in report["rounds"] if name in entry["eval"]]
    return found[-1] if found else {}


def by_subject(report: dict[str, Any]) -> tuple[Draw, int] | None:
    """Greedy accuracy by subject, a bar each, the best first."""
    figures = _last(report).get("greedy", {}).get("by_subject") or {}
    if len(figures) < 2:
        return None
    subjects = sorted(figures, key=lambda name: -figures[name]["accuracy"])

    def draw(axes: Any) -> None:
        shares = [(figures[name]["accuracy"], figures[name]["ci95"]) for name in subjects]
        axes.barh(
            range(len(subjects)),
            [share for share, _ in shares],
            xerr=_errors(shares),
            color=_PALETTE[0],
            ecolor=INK,
            error_kw={"elinewidth": 0.8},
            height=0.62,
        )
        cut = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in subjects]
        axes.set_yticks(
            range(len(subjects)),
            [f"{name} ({figures[full]['n']})" for name, full in zip(cut, subjects, strict=True)],
        )
        axes.invert_yaxis()
        _percent(axes, "x")
        axes.set_xlabel("greedy accuracy (problems)")

    return draw, len(subjects)


def by_tokens(report: dict[str, Any]) -> tuple[Draw, int] | None:
    """Accuracy against generated tokens a problem, a dot a method; those of equal cost stand a little apart."""
    methods = _last(report)
    shown = [method for method in told_methods(report, report["sets"][0]) if method in methods] if methods else []
    if not shown:
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
                color=COLOURS[method.partition("@")[0].partition("_top")[0]],
                markerfacecolor="none" if "_top" in method else None,
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

    return draw, 0


def by_samples(report: dict[str, Any]) -> tuple[Draw, int] | None:
    """Accuracy by how many samples are used, a line a method; the line of theory is dashed."""
    curves = {method: figures["by_n"] for method, figures in _last(report).items() if figures.get("by_n")}
    theory: dict[str, float] = next(
        (figures["theory"] for figures in _last(report).values() if figures.get("theory")), {}
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

    return (draw, 0) if curves else None


def calibration(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """Share of right solutions by the chance that the PRM gives them, a line a round."""
    known = [entry for entry in rounds if entry["calibration"]]

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        for place, entry in enumerate(known):
            chances, shares, counts = zip(*entry["calibration"], strict=True)
            bounds = [wilson(round(share * n), n) for share, n in zip(shares, counts, strict=True)]
            axes.errorbar(
                chances,
                shares,
                yerr=_errors(zip(shares, bounds, strict=True)),
                color=_PALETTE[place % len(_PALETTE)],
                marker="o",
                markersize=4,
                elinewidth=0.6,
                label=f"round {entry['round']}",
            )
        _percent(axes, "x")
        _percent(axes, "y")
        axes.set_xlabel("chance by the PRM: (value + 1) / 2")
        axes.set_ylabel("right")
        _key(axes)

    return (draw, 0) if known else None


def q_values(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """Distribution of Q over visited steps, an outline a round."""
    known = [entry for entry in rounds if sum(entry["searches"].q)]

    def draw(axes: Any) -> None:
        highest = 0.0
        for place, entry in enumerate(known):
            counts = entry["searches"].q
            edges = [2 * i / len(counts) - 1 for i in range(len(counts) + 1)]
            shares = [count / sum(counts) for count in counts]
            highest = max(highest, *shares)
            axes.stairs(
                shares, edges, color=_PALETTE[place % len(_PALETTE)], linewidth=1.4, label=f"round {entry['round']}"
            )
        axes.set_xlim(-1.01, 1.01)
        axes.set_ylim(0, highest * 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set_xlabel("Q (−1: all wrong, 1: all right)")
        axes.set_ylabel("visited steps")
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        _key(axes)

    return (draw, 0) if known else None


def dropped(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """Share of a round's candidate steps that were dropped, by why."""
    known = [entry for entry in rounds if entry["searches"].fates]
    totals = [sum(entry["searches"].fates.values()) for entry in known]
    fates = {fate for entry in known for fate in entry["searches"].fates if fate != RAN}
    parts = {
        fate: [100 * e["searches"].fates[fate] / total for e, total in zip(known, totals, strict=True)]
        for fate in sorted(fates, key=lambda fate: -sum(entry["searches"].fates[fate] for entry in known))
    }
    names = [f"round {entry['round']} ({total:,})" for entry, total in zip(known, totals, strict=True)]
    return (_stacked(names, parts, "% of candidates (in brackets: how many)"), len(known)) if parts else None


def kept(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """A round's finished solutions, by what they are used for."""
    known = [entry for entry in rounds if sum(entry["choices"].values())]
    parts = {title: [entry["choices"].get(name, 0) for entry in known] for name, title in _CHOICES.items()}
    names = [f"round {entry['round']}" for entry in known]
    return (_stacked(names, parts, "solutions"), len(known)) if known else None


def time_by_stage(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """A round's minutes, by stage."""
    return _by_stage(rounds, "seconds", 60, "minutes")


def tokens_by_stage(rounds: Sequence[dict[str, Any]]) -> tuple[Draw, int] | None:
    """A round's generated tokens, by stage."""
    return _by_stage(rounds, "tokens", 1, "tokens")


def _by_stage(rounds: Sequence[dict[str, Any]], key: str, unit: float, label: str) -> tuple[Draw, int] | None:
    known = [entry for entry in rounds if any(told[key] for told in entry["stages"].values())]
    others = {name.split()[0] for entry in known for name in entry["stages"]} - {*STAGES}
    parts = {
        stage: [
            sum(told[key] for name, told in entry["stages"].items() if name.split()[0] == stage) / unit
            for entry in known
        ]
        for stage in [*STAGES, *sorted(others)]
    }
    return (_stacked([f"round {entry['round']}" for entry in known], parts, label), len(known)) if known else None


def _stacked(names: Sequence[str], parts: Mapping[str, Sequence[float]], label: str) -> Draw:
    """Horizontal bars, one a name, of parts that lie side by side; parts that are empty everywhere are left out."""

    def draw(axes: Any) -> None:
        places = list(range(len(names)))
        left = [0.0] * len(names)
        for (name, values), colour in zip(parts.items(), _PALETTE, strict=False):
            if any(values):
                axes.barh(places, values, left=left, color=colour, label=name, height=0.62)
                left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower left")

    return draw


def _percent(axes: Any, axis: str) -> None:
    """An axis from 0 to 100 %, with lines; what stands on its ends is not cut."""
    getattr(axes, f"set_{axis}lim")(-0.015, 1.015)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.grid(axis=axis, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _key(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
