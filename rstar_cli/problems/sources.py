"""One way to name problems on the command line: a file, or a benchmark of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rstar_cli.errors import DataError, UsageError, did_you_mean
from rstar_cli.jsonl import STRICT, Aside
from rstar_cli.problems.files import read_problems
from rstar_cli.problems.formats import READERS
from rstar_cli.problems.hub import BENCHMARKS, load_benchmark
from rstar_cli.records import Problem


def resolve(
    source: str, *, limit: int | None = None, require_answer: bool = True, aside: Aside = STRICT
) -> Iterator[Problem]:
    """Stream the problems that a word on the command line stands for.

    Args:
        source: a file, `-` for JSON lines from stdin, or a benchmark's name, with a split if need be (`math:train`).
        limit: stop after so many problems.
        require_answer: leave out problems of a file whose answer is empty (a benchmark's always are).
        aside: takes bad lines of a file.

    Raises:
        UsageError: neither a file nor a benchmark.
        DataError: see `read_problems`.
        SetupError: see `load_benchmark`.
    """
    name, _, split = source.partition(":")
    path = Path(source)
    if source == "-" or path.is_file():
        return read_problems(source, limit=limit, require_answer=require_answer, aside=aside)
    if name in BENCHMARKS:
        return load_benchmark(name, split or None, limit)
    if path.exists():
        raise DataError("is a folder", path=source, remedy="name a file in it")
    if path.suffix or len(path.parts) > 1:
        beside = [str(p) for p in path.parent.glob("*") if p.suffix.lower() in READERS]
        raise DataError("no such file", path=source, remedy=did_you_mean(source, beside) if beside else _SUFFIXES)
    raise UsageError(
        f"{source!r} is neither a file nor a benchmark", remedy=f"{did_you_mean(name, list(BENCHMARKS))} {_SUFFIXES}"
    )


_SUFFIXES = f"A file of problems ends in one of {', '.join(READERS)}."
