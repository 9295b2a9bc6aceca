"""problems make | import: problems into a file, or into a run's training pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast, get_args

from rstar_cli.config import parse_levels
from rstar_cli.errors import DataError, UsageError, did_you_mean
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir
from rstar_cli.problems.synthetic import Split, make_problems
from rstar_cli.quarantine import beside, counted, notes, open_aside
from rstar_cli.records import Problem


def make(output: str, count: int, seed: int, levels: str, split: str) -> str:
    """Generate problems into a file; returns what to say."""
    if split not in get_args(Split):
        raise UsageError(f"--split: no split {split!r}", remedy=did_you_mean(split, list(get_args(Split))))
    try:
        wanted = parse_levels(levels)
    except ValueError as error:
        raise UsageError(f"--levels: {error}") from error
    written = write_rows(output, make_problems(count, seed, wanted, split=cast(Split, split)))
    return f"wrote {written} problems to {output}"


def import_(
    source: str, output: str | None, run: Path | None, limit: int | None, *, skip_bad_lines: bool = False
) -> tuple[str, bool]:
    """Import problems into a file or a run's pool, one after the other; returns what to say, and whether all are there.

    Raises:
        UsageError: not one place for them, or the pool is there already.
        DataError: a bad line, or no problem.
    """
    from rstar_cli.problems.sources import resolve

    if (output is None) == (run is None):
        raise UsageError("import needs one of --output and --run", remedy="Say where the problems shall go.")
    opened = None if run is None else RunDir.open(run)
    target = cast(str, output) if opened is None else str(opened.pool)
    if opened is not None and opened.pool.exists():
        raise UsageError(f"{target} is there already", remedy="Remove it to import another pool.")
    if skip_bad_lines and target == "-" and source == "-":
        raise UsageError("--skip-bad-lines needs a file to set them aside beside", remedy="Give --output FILE.")
    with ExitStack() as stack:
        aside = open_aside(stack, skip_bad_lines, beside(source if target == "-" else target))
        written = write_rows(target, _some(resolve(source, limit=limit, aside=aside), source))
    said = [f"wrote {written} problems to {target}"]
    said += notes(aside)
    said += [f"next: {opened.command('generate', 1)}"] if opened is not None else []
    return "\n".join(said), not counted(aside)


def _some(problems: Iterator[Problem], source: str) -> Iterator[Problem]:
    """The problems.

    Raises:
        DataError: there is none.
    """
    first = next(problems, None)
    if first is None:
        raise DataError("holds no problem", path=source)
    yield first
    yield from problems
