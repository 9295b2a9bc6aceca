"""No problem of an evaluation set gets into training unseen: which are told, refused, or allowed on the record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rstar_cli.config import GenerateConfig, TrainConfig
from rstar_cli.contamination import Known
from rstar_cli.errors import DataError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.records import Problem
from rstar_cli.stages.problem_sets import evaluated_problems

SHOWN = 10
"""Overlaps that an error lists."""


class Overlap(NamedTuple):
    """A training problem, the problem of an evaluation set that it is, and whether it is so exactly or nearly."""

    training: Problem
    set: str
    evaluation: Problem
    kind: str


def find_overlaps(training: Iterable[Problem], sets: Iterable[tuple[str, Problem]]) -> list[Overlap]:
    """The training problems that are in evaluation sets, too, in order.

    Args:
        training: problems.
        sets: (name of its set, problem) of each evaluation problem.
    """
    there, asked = list(sets), list(training)
    known = Known(problem.problem for _, problem in there)
    return [Overlap(asked[i], *there[j], kind) for i, j, kind in known.overlaps(p.problem for p in asked)]


def refuse_overlaps(run: RunDir, problems: Sequence[Problem], config: GenerateConfig, origin: str | Path) -> int:
    """Refuse a round's problems where some of them are in the run's evaluation sets.

    Args:
        run: the run.
        problems: of the round.
        config: may allow it.
        origin: where the problems come from.

    Returns:
        How many are; above 0 only where that is allowed.

    Raises:
        DataError: lists them.
    """
    found = find_overlaps(problems, evaluated_problems(run))
    if found and not config.allow_contamination:
        raise _refusal(found, origin)
    return len(found)


def refuse_trained(run: RunDir, rounds: Iterable[int], ids: Collection[str], config: TrainConfig) -> int:
    """The same for the problems of training rows: an evaluation set may have come after the search.

    Rounds whose search was allowed to see such problems are not refused again.

    Args:
        run: the run.
        rounds: whose rows are trained on.
        ids: the problems that have rows.
        config: may allow it.

    Returns:
        How many are in evaluation sets.

    Raises:
        DataError: lists them.
    """
    sets = evaluated_problems(run)
    count = 0
    for number in rounds:
        files = run.round(number)
        path = run.require(files.problems, "generate", number)
        found = find_overlaps((p for p in read_rows(path, Problem) if p.id in ids), sets)
        searched = read_manifest(files.manifest).get("generate", {}).get("config", {})
        if found and not (config.allow_contamination or searched.get("allow_contamination")):
            raise _refusal(found, path)
        count += len(found)
    return count


def _refusal(found: Sequence[Overlap], origin: str | Path) -> DataError:
    lines = [f"  {o.training.id} is {o.evaluation.id} of {o.set} ({o.kind})" for o in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more")
    return DataError(
        "\n".join([f"{len(found)} problems are in an evaluation set, too:", *lines]),
        path=origin,
        remedy="Leave them out, or give --allow-contamination: the manifest and the report will tell.",
    )
