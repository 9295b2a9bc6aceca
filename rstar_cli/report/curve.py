"""The curve by round in a terminal: what was measured, and apart from it what others claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rstar_cli.report.collect import series, told_methods

_Column = tuple[str, Mapping[int, str], str]
"""Heading, cells by round, and the number of problems for the last row."""


def curve_table(report: dict[str, Any]) -> Group:
    """Tables of accuracy by round, in percent, for 80 columns and more.

    Above, the main set by method; below, the other sets and the PRM, and the claims beside them where there is room.

    Args:
        report: as `collect` gives it.
    """
    rounds = [entry["round"] for entry in report["rounds"]]
    main = [_table(f"{name}: accuracy, %", rounds, _methods(report, name)) for name in report["sets"][:1]]
    also = [_accuracy(f"{name}\ngreedy", series(report, name, "greedy")) for name in report["sets"][1:]]
    if prm := {entry["round"]: entry["prm"]["all"] for entry in report["rounds"] if "prm" in entry}:
        also.append(_accuracy("PRM\npairs", prm))
    below = [_table("also measured, %", rounds, also)] if also else []
    warnings = [
        Text(
            f"Round {entry['round']} trained on {entry['contaminated']} problems of evaluation sets: "
            "its accuracy, and that of later rounds, is no held-out accuracy.",
            style="bold red",
        )
        for entry in report["rounds"]
        if "contaminated" in entry
    ]
    apart = [Padding(table, (1, 0, 0, 0), expand=False) for table in (*below, _claimed(report["claims"]))]
    return Group(*warnings, *main, Columns(apart, padding=(0, 4)))


def _methods(report: dict[str, Any], name: str) -> list[_Column]:
    columns = []
    for method in told_methods(report, name):
        found = series(report, name, method)
        columns.append(_accuracy(_heading(method), found))
        if method == "greedy":
            bounds = {number: [_percent(bound) for bound in figures["ci95"]] for number, figures in found.items()}
            columns.append(("95 %\ninterval", {number: " to ".join(pair) for number, pair in bounds.items()}, ""))
    return columns


def _heading(method: str) -> str:
    """A method over two lines."""
    kind, at, number = method.partition("@")
    search, top, taken = kind.partition("_top")
    return f"{search}\n{top[1:]}{taken}{at}{number}" if at else method


def _claimed(claims: dict[str, Any]) -> Table:
    columns = []
    for label, claim in claims.items():
        known = {number: _percent(share) for number, share in enumerate(claim["accuracy"]) if share is not None}
        columns.append((label.replace(" ", "\n", 1), known, ""))
    rounds = range(max(len(claim["accuracy"]) for claim in claims.values()))
    return _table("claimed (7B, MATH), %", rounds, columns)


def _accuracy(heading: str, found: Mapping[int, Mapping[str, Any]]) -> _Column:
    counts = {figures["n"] for figures in found.values()}
    span = sorted({min(counts), max(counts)}) if counts else []
    cells = {number: _percent(figures["accuracy"]) for number, figures in found.items()}
    return heading, cells, " to ".join(map(str, span))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(title: str, rounds: Sequence[int], columns: Sequence[_Column]) -> Table:
    counted = any(count for *_, count in columns)
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="",
        footer_style="dim",
        show_footer=counted,
    )
    table.add_column("\nround", justify="right", footer="n" if counted else "")
    for heading, _, count in columns:
        table.add_column(heading if "\n" in heading else f"\n{heading}", justify="right", footer=count)
    for number in rounds:
        table.add_row(str(number), *(cells.get(number, "-") for _, cells, _ in columns))
    return table
