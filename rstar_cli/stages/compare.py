"""evaluate --compare: two evaluations of the same problems, problem by problem. Reads their rows; loads no model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli.errors import DataError, MissingArtifactError, UsageError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import ROUND_FOLDER, RunDir
from rstar_cli.metrics import mcnemar, paired_gain
from rstar_cli.options import EvaluatePlace
from rstar_cli.records import EvalRow
from rstar_cli.stages.common import Summary
from rstar_cli.stages.figures import Outcomes, outcomes_of

COLUMNS = ("A %", "B %", "B - A", "95 % interval", "won/lost/tied", "p", "tok. A", "tok. B")
"""Won: problems that B solved and A did not. p: McNemar's, exact; none of chances. Tokens: on the problems of both."""

_ROWS = re.compile(r"(?P<name>.+)\.(?P<kind>greedy|samples|[a-z-]+@\d+)\.jsonl")
_FORMS = "Give a round (3), a run and a round (runs/other:3), a folder of results, or a file of rows."


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two: how it is called, its files of rows by set and kind, and whether it is one file by its name."""

    title: str
    files: dict[str, dict[str, Path]]
    alone: bool


_Made = tuple[list[float], list[float]]
"""Value and tokens of each problem, as of `Outcomes`."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A method of A and one of B on a set.

    Attributes:
        name: of the set.
        method: as shown: that of both, or of A and of B.
        a: what A made of the problems that both have.
        b: what B made of them, in the same order.
        counts: problems of A, of B, and of both.
    """

    name: str
    method: str
    a: _Made
    b: _Made
    counts: tuple[int, int, int]


def compare(names: tuple[str, str], place: EvaluatePlace, given: Mapping[str, Any]) -> Summary:
    """Compare two evaluations on every set and method that both have; of two files, on their first methods if need be.

    Args:
        names: A and B, each as the flag's help has it.
        place: `run` is whose round a mere number is.
        given: settings, of which none has a meaning here.

    Raises:
        UsageError: a flag has no meaning here, or a side is not to be understood.
        DataError: a side has no results, or the two have no method or no problem in common.
    """
    _refuse_flags(place, given)
    sides = [_side(text, place) for text in names]
    pairs = list(_pairs(*sides))
    if not pairs:
        there = "; ".join(f"{letter}: {_contents(side)}" for letter, side in zip("AB", sides, strict=True))
        raise DataError(f"no set was evaluated by the same method in both ({there})", remedy=_SAME)
    if not any(pair.counts[2] for pair in pairs):
        raise DataError(f"no problem of {sides[0].title} is in {sides[1].title}", remedy=_SAME)
    summary = Summary("compare: B against A", columns=COLUMNS)
    summary.figures = {"A": sides[0].title, "B": sides[1].title}
    for pair in pairs:
        _tell(summary, pair)
    return summary


_SAME = "Evaluate both on the same set: rstar evaluate --round N --benchmark FILE."


def _refuse_flags(place: EvaluatePlace, given: Mapping[str, Any]) -> None:
    without = {**given, **{name: getattr(place, name) for name in ("shard", "benchmark", "limit", "policy", "output")}}
    without |= {name: True for name in ("dry_run", "log_samples") if getattr(place, name)}
    for name, value in without.items():
        if value is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} has no meaning with --compare, which only reads what was evaluated",
                remedy="Leave it out.",
            )


def _side(text: str, place: EvaluatePlace) -> _Side:
    """What a name stands for."""
    path, (root, _, number) = Path(text), text.rpartition(":")
    if text.isdecimal():
        return _of_round(RunDir.find(place.run_dir), int(text))
    if number.isdecimal() and root and not path.exists():
        return _of_round(RunDir.find(Path(root)), int(number))
    if path.is_file():
        named = _ROWS.fullmatch(path.name)
        if named is None:
            raise DataError("not named as a file of rows, NAME.METHOD.jsonl", path=path, remedy=_FORMS)
        return _Side(text, {named["name"]: {named["kind"]: path}}, alone=True)
    if not path.is_dir():
        raise UsageError(f"there is no {text!r} to compare", remedy=_FORMS)
    if (path / "recipe.toml").exists():
        raise UsageError(f"{text} is a run; which round of it?", remedy=f"Give {text}:1, for one.")
    folder = path / "eval" if path.name.startswith(ROUND_FOLDER) else path
    return _Side(text, _files(folder, f"Give a folder that `rstar evaluate` wrote. {_FORMS}"), alone=False)


def _of_round(run: RunDir, number: int) -> _Side:
    folder = run.round(number).evaluations
    files = _files(folder, f"Run: {run.command('evaluate', number)}")
    order = [*run.recipe.eval_sets]  # the main set first
    names = sorted(files, key=lambda name: (order.index(name) if name in order else len(order), name))
    return _Side(f"round {number} of {run.root}", {name: files[name] for name in names}, alone=False)


def _files(folder: Path, remedy: str) -> dict[str, dict[str, Path]]:
    """Files of rows by set and kind: greedy, samples, searches."""
    files: dict[str, dict[str, Path]] = {}
    named = [found for path in folder.glob("*.jsonl") if (found := _ROWS.fullmatch(path.name))]
    for found in sorted(named, key=lambda found: (found["name"], "@" in found["kind"], found["kind"])):
        files.setdefault(found["name"], {})[found["kind"]] = folder / found[0]
    if not files:
        raise MissingArtifactError(f"there are no results of an evaluation in {folder}", remedy=remedy)
    return files


def _contents(side: _Side) -> str:
    return ", ".join(f"{name} {kind}" for name, kinds in side.files.items() for kind in kinds)


def _pairs(a: _Side, b: _Side) -> Iterator[_Pair]:
    """Every method of every set that both have; of two files, the first methods of each if they share none."""
    if a.alone and b.alone:
        ((name, kinds_a),), ((_, kinds_b),) = a.files.items(), b.files.items()
        ((kind_a, file_a),), ((kind_b, file_b),) = kinds_a.items(), kinds_b.items()
        yield from _methods(name, (kind_a, file_a), (kind_b, file_b))
        return
    for name in a.files:
        for kind, file in a.files[name].items():
            if other := b.files.get(name, {}).get(kind):
                yield from _methods(name, (kind, file), (kind, other))


def _methods(name: str, a: tuple[str, Path], b: tuple[str, Path]) -> Iterator[_Pair]:
    rows_a, rows_b = _by_id(a[1]), _by_id(b[1])
    common = [key for key in rows_a if key in rows_b]
    counts = (len(rows_a), len(rows_b), len(common))
    found_a, found_b = (
        {method: _only(outcomes, rows, common) for method, outcomes in outcomes_of(kind, [*rows.values()]).items()}
        for kind, rows in ((a[0], rows_a), (b[0], rows_b))
    )
    shared = [method for method in found_a if method in found_b]
    for method in shared:
        yield _Pair(name, method, found_a[method], found_b[method], counts)
    if not shared and a[0] != b[0]:
        first_a, first_b = next(iter(found_a)), next(iter(found_b))
        yield _Pair(name, f"{first_a}, {first_b}", found_a[first_a], found_b[first_b], counts)


def _by_id(path: Path) -> dict[str, EvalRow]:
    rows: dict[str, EvalRow] = {}
    for number, row in enumerate(read_rows(path, EvalRow), 1):
        if rows.setdefault(row.problem_id, row) is not row:
            raise DataError(
                f"{row.problem_id!r} stands twice", path=path, line=number, field="problem_id", remedy="Remove one."
            )
    if not rows:
        raise DataError("no row", path=path, remedy="Remove the file and evaluate again.")
    return rows


def _only(outcomes: Outcomes, rows: Mapping[str, EvalRow], common: Sequence[str]) -> _Made:
    """The outcomes of some problems, in their order."""
    at = {key: place for place, key in enumerate(rows)}
    places = [at[key] for key in common]
    return [outcomes.values[i] for i in places], [outcomes.tokens[i] for i in places]


def _tell(summary: Summary, pair: _Pair) -> None:
    (before, tokens_a), (after, tokens_b), common = pair.a, pair.b, pair.counts[2]
    gain, (low, high) = paired_gain(before, after)
    won = sum(now > then for then, now in zip(before, after, strict=True))
    lost = sum(now < then for then, now in zip(before, after, strict=True))
    yes_or_no = all(value in (0, 1) for value in (*before, *after))
    found = {
        "accuracy": [math.fsum(values) / common if common else 0.0 for values in (before, after)],
        "gain": gain,
        "ci95": [low, high],
        "won": won,
        "lost": lost,
        "tied": common - won - lost,
        "p": mcnemar(won, lost) if yes_or_no else None,
        "tokens": [round(math.fsum(tokens)) for tokens in (tokens_a, tokens_b)],
        "problems": dict(zip(("a", "b", "both"), pair.counts, strict=True)),
    }
    summary.data.setdefault(pair.name, {})[pair.method] = found
    summary.tables.setdefault(pair.name, {})[pair.method] = _cells(found)
    told = (
        f"{pair.name}: of {pair.counts[0]:,} problems of A and {pair.counts[1]:,} of B, the {common:,} of both count."
    )
    if len({*pair.counts}) > 1 and told not in summary.notes:
        summary.notes.append(told)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    low, high = (f"{100 * bound:+.1f}" for bound in found["ci95"])
    p = found["p"]
    return (
        *(f"{100 * share:.1f}" for share in found["accuracy"]),
        f"{100 * found['gain']:+.1f}",
        f"{low} to {high}",
        f"{found['won']}/{found['lost']}/{found['tied']}",
        "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
        *(short(tokens) for tokens in found["tokens"]),
    )


def short(count: int) -> str:
    """A count in five characters at most, such as 31.2k."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            share = count / size
            return f"{share:.1f}{unit}" if share < 99.95 else f"{share:.0f}{unit}"
    return str(count)
