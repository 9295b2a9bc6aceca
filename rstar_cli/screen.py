"""What the commands show: a summary, the loop's lines and its curve. Tables on stderr, JSON on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import orjson
import typer

from rstar_cli.layout import RunDir, write_bytes
from rstar_cli.options import EvolvePlace, Place, ReportPlace, ShowPlace
from rstar_cli.ranks import is_main

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_cli.report.tree import Shown
    from rstar_cli.rounds import Outcome
    from rstar_cli.stages.common import Summary


def note(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def show(place: Place, summary: Summary) -> None:
    """Show a stage's summary, once for all processes: a table on stderr, or one JSON object on stdout."""
    if not is_main():
        return
    if place.json_:
        report = {
            "stage": summary.stage,
            "figures": summary.figures,
            "data": summary.data,
            "done_before": summary.done_before,
            "files": [str(path) for path in summary.files],
            "next": summary.next_command,
            "notes": summary.notes,
        }
        sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        _print_summary(summary)


def _print_summary(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False)
    if summary.tables:
        console.print(_tables(summary))
    title = None if summary.tables else summary.stage
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    if summary.columns and not summary.tables:
        table.add_row("", *(f"[bold]{title}[/bold]" for title in summary.columns))
    for name, value in summary.figures.items():
        cells = value if isinstance(value, tuple) else (f"{value:,}" if isinstance(value, int) else str(value),)
        table.add_row(name, *map(str, cells))
    if summary.figures or not summary.tables:
        console.print(table)
    for note in summary.notes:
        console.print(note, style="yellow", markup=False)
    if summary.done_before:
        console.print("It was done before; nothing was changed.")
    for path in summary.files:
        console.print(f"{'there:' if summary.done_before else 'wrote'} {path}", markup=False, soft_wrap=True)
    if summary.next_command:
        console.print(f"next: {summary.next_command}", markup=False, soft_wrap=True, style="bold")


def _tables(summary: Summary) -> Table:
    """The tables of a summary as one, so that their columns stand below each other; for 80 columns and more."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=summary.stage,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("", no_wrap=True)
    for title in summary.columns:
        shown.add_column(title, justify="right", no_wrap=True)
    for heading, rows in summary.tables.items():
        shown.add_row(Text(heading, style="bold"))
        for name, cells in rows.items():
            shown.add_row(Text(f" {name}"), *cells)
    return shown


def show_search(place: ShowPlace, shown: Shown) -> None:
    """Show a search tree: on stdout, or as a page that is written."""
    from rich.console import Console

    from rstar_cli.report.tree import best_text, page_data, tree_page, tree_text

    if place.html is not None:
        write_bytes(place.html, tree_page(shown).encode())
        note(f"wrote {place.html}")
    if place.json_:
        sys.stdout.buffer.write(orjson.dumps(page_data(shown), option=orjson.OPT_INDENT_2) + b"\n")
    elif place.html is None:
        text = best_text(shown) if place.best_path else tree_text(shown, place.depth)
        Console(highlight=False).print(text)


def tell_stage(summary: Summary) -> None:
    """A line on stderr for a stage of the loop."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.print(f"{summary.stage:22} {summary.headline}", markup=False, soft_wrap=True)
    for note in summary.notes:
        console.print(f"{'':22} {note}", style="yellow", markup=False, soft_wrap=True)


def show_report(place: ReportPlace, run: RunDir) -> None:
    """Write the report anew as JSON, page and figures, and show the curve."""
    from rstar_cli.report import collect, curve_table, write_report
    from rstar_cli.report.page import write_page

    report = collect(run)
    written = [write_report(run), *write_page(run)]
    if place.json_:
        sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.print(curve_table(report))
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def show_curve(place: EvolvePlace, run: RunDir, outcome: Outcome, seconds: dict[str, float]) -> None:
    """End the loop: the curve on stderr, or the report on stdout; the figures drawn."""
    from rstar_cli.report import collect, curve_table, write_report
    from rstar_cli.report.page import write_page

    write_report(run)
    report = collect(run)
    drawn = write_page(run)
    if place.json_:
        told = {"ended": outcome.ended, "why": outcome.why, "seconds": seconds, "report": report}
        sys.stdout.buffer.write(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        console.print()
        console.print(curve_table(report))
        console.print()
        console.print(f"ended: {outcome.why}", markup=False, soft_wrap=True)
        times = ", ".join(f"{stage} {value:,.0f} s" for stage, value in seconds.items())
        console.print(f"time: {times}", markup=False, soft_wrap=True)
        for path in (run.report, *drawn):
            console.print(f"wrote {path}", markup=False, soft_wrap=True)
