"""`rstar problems`: make, import and list problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rstar_cli.screen import note

problems_app = typer.Typer(no_args_is_help=True, help="Make, import and list problems.")


@problems_app.command("make")
def problems_make(
    output: Annotated[str, typer.Option(help="File for the rows; - is stdout.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal problems.")] = 0,
    levels: Annotated[str, typer.Option(help="Levels: reasoning steps, 1 to 6.")] = "1-5",
    split: Annotated[str, typer.Option(help="train, validation or test: disjoint sets.")] = "train",
) -> None:
    """Generate problems with exact answers."""
    from rstar_cli.stages.problem_files import make

    note(make(output, count, seed, levels, split))


@problems_app.command("import")
def problems_import(
    source: Annotated[str, typer.Argument(help="A file (.json, .jsonl, .csv, .parquet) or a benchmark's name.")],
    output: Annotated[str | None, typer.Option(help="File for the rows; - is stdout.")] = None,
    run: Annotated[Path | None, typer.Option(help="Make them the training pool of this run instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first so many.")] = None,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Set bad lines aside in a file beside the output, and go on.")
    ] = False,
) -> None:
    """Import problems from a file or a benchmark, into a file or as a run's training pool."""
    from rstar_cli.stages.problem_files import import_

    said, whole = import_(source, output, run, limit, skip_bad_lines=skip_bad_lines)
    note(said)
    if not whole:
        raise typer.Exit(7)


@problems_app.command("list")
def problems_list() -> None:
    """List the benchmarks that are known by name."""
    from rstar_cli.problems.hub import BENCHMARKS

    for name, benchmark in BENCHMARKS.items():
        typer.echo(f"{name:14} {benchmark.hub_id}")
