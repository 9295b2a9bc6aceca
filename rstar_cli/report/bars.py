"""The report's bars: what became of candidates and of solutions, time and tokens by stage; a bar a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rstar_cli.config import STAGES
from rstar_cli.records import Choice
from rstar_cli.report.drawings import LINE, ON, PALETTE, Draw, Drawing
from rstar_cli.report.searches import FATES, RAN

_CHOICES = {
    Choice.KEPT: ("trains the policy", "right, and among the best of its problem"),
    Choice.SURPLUS: ("right, beyond the best", "better ones of its problem are as many as may train"),
    Choice.DUPLICATE: ("right, a duplicate", "the program of a better one, names and comments aside"),
    Choice.UNLIKELY: ("right, unlikely", "much less likely than another by the policy: perhaps luck"),
    Choice.NOT_RIGHT: ("not right", "its answer is not known to be right"),
}
"""What a solution is used for: its name, and what that means."""
_HOURS = ((3_600, "seconds", 1), (36_000, "minutes", 60))
"""The unit of times: below so many seconds of the longest round, its name, and its seconds."""
_CHARACTER = 0.022
"""A character's width, as a share of the longest bar."""


def dropped(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """Share of a round's candidate steps that were dropped, by why."""
    known = [entry for entry in rounds if entry["searches"].fates]
    totals = [sum(entry["searches"].fates.values()) for entry in known]
    fates = {fate for entry in known for fate in entry["searches"].fates if fate != RAN}
    ordered = sorted(fates, key=lambda fate: -sum(entry["searches"].fates[fate] for entry in known))
    counts = {fate: [entry["searches"].fates[fate] for entry in known] for fate in ordered}
    parts = {fate: [100 * n / total for n, total in zip(found, totals, strict=True)] for fate, found in counts.items()}
    if not parts:
        return None
    names = [f"round {entry['round']} ({total:,})" for entry, total in zip(known, totals, strict=True)]
    draw = _stacked(names, parts, "% of candidates (in brackets: how many)", lambda share: f"{share:.1f} %")
    notes = {fate: FATES[fate] for fate in ordered}
    return Drawing(draw, len(known), notes, *_numbers(known, {**counts, "of all candidates": totals}))


def kept(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """A round's finished solutions, by what they are used for."""
    known = [entry for entry in rounds if sum(entry["choices"].values())]
    parts = {choice: found for choice in _CHOICES if any(found := [entry["choices"].get(choice, 0) for entry in known])}
    if not parts:
        return None
    named = {_CHOICES[choice][0]: found for choice, found in parts.items()}
    draw = _stacked([f"round {entry['round']}" for entry in known], named, "solutions", lambda n: f"{n:,.0f}")
    totals = [sum(entry["choices"].values()) for entry in known]
    notes = dict(_CHOICES[choice] for choice in parts)
    return Drawing(draw, len(known), notes, *_numbers(known, {**named, "in all": totals}))


def _numbers(
    known: Sequence[dict[str, Any]], columns: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table: a row a round, a column a part."""
    rows = [
        [f"round {entry['round']}", *(f"{found[i]:,}" for found in columns.values())] for i, entry in enumerate(known)
    ]
    return ["", *columns], rows


def time_by_stage(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """A round's time, by stage."""
    unit, size = time_unit(rounds)
    return _by_stage(rounds, "seconds", size, unit, duration)


def tokens_by_stage(rounds: Sequence[dict[str, Any]]) -> Drawing | None:
    """A round's generated tokens, by stage."""
    return _by_stage(rounds, "tokens", 1, "tokens", lambda n: f"{n:,.0f}")


def time_unit(rounds: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """The unit of all times of a report, and its seconds: by the longest round.

    Args:
        rounds: as `gather` gives them.
    """
    longest = max((sum(told["seconds"] for told in entry["stages"].values()) for entry in rounds), default=0.0)
    return next(((name, size) for below, name, size in _HOURS if longest < below), ("hours", 3_600))


def duration(value: float) -> str:
    """A time in whatever unit, with as many places as tell something."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.05 or not value else "< 0.1"


def _by_stage(
    rounds: Sequence[dict[str, Any]], key: str, unit: float, label: str, number: Callable[[float], str]
) -> Drawing | None:
    known = [entry for entry in rounds if any(told[key] for told in entry["stages"].values())]
    others = {name.split()[0] for entry in known for name in entry["stages"]} - {*STAGES}
    parts = {
        stage: [
            sum(told[key] for name, told in entry["stages"].items() if name.split()[0] == stage) / unit
            for entry in known
        ]
        for stage in [*STAGES, *sorted(others)]
    }
    names = [f"round {entry['round']}" for entry in known]
    return Drawing(_stacked(names, parts, label, number), len(known)) if known else None


def _stacked(
    names: Sequence[str], parts: Mapping[str, Sequence[float]], label: str, number: Callable[[float], str]
) -> Draw:
    """Horizontal bars, one a name, of parts that lie side by side; parts that are empty everywhere are left out.

    Each part has its number where there is room for it, and each bar its sum at its end.
    """
    longest = max(sum(values[i] for values in parts.values()) for i in range(len(names))) or 1.0

    def draw(axes: Any) -> None:
        places = list(range(len(names)))
        left = [0.0] * len(names)
        for (name, values), colour in zip(parts.items(), PALETTE, strict=False):
            if any(values):
                axes.barh(places, values, left=left, color=colour, label=name, height=0.66)
                for place, value in enumerate(values):
                    if value > longest * _CHARACTER * (len(number(value)) + 0.5):
                        middle = left[place] + value / 2
                        ink = ON if colour == PALETTE[0] else "#111111"
                        axes.text(middle, place, number(value), ha="center", va="center", fontsize=8, color=ink)
                left = [a + b for a, b in zip(left, values, strict=True)]
        for place, whole in enumerate(left):
            axes.text(whole + 0.012 * longest, place, number(whole), va="center", fontsize=9)
        axes.set_xlim(0, longest * (1.02 + _CHARACTER * 1.2 * max(len(number(whole)) for whole in left)))
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower left")

    return draw
