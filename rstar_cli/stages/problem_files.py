"""problems make | import: problems into a file, or into a run's training pool."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from rstar_cli.config import parse_levels
from rstar_cli.errors import UsageError, did_you_mean
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir
from rstar_cli.problems.synthetic import Split, make_problems
from rstar_cli.stages.problem_sets import read_source


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


def import_(source: str, output: str | None, run: Path | None, limit: int | None) -> str:
    """Import problems into a file or a run's pool; returns what to say."""
    if (output is None) == (run is None):
        raise UsageError("import needs one of --output and --run", remedy="Say where the problems shall go.")
    problems = read_source(source, limit)
    if run is None:
        return f"wrote {write_rows(cast(str, output), problems)} problems to {output}"
    opened = RunDir.open(run)
    pool = opened.pool
    if pool.exists():
        raise UsageError(f"{pool} is there already", remedy="Remove it to import another pool.")
    written = write_rows(pool, problems)
    return f"wrote {written} problems to {pool}\nnext: {opened.command('generate', 1)}"
