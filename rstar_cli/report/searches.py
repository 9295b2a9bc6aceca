"""What the searches of a round came to: of each problem its answers, and what became of candidate steps.

Trees are read as plain objects: they are the run's own, large, and nothing here hangs on their every field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rstar_cli.jsonl import read_objects, read_rows
from rstar_cli.layout import RoundDir
from rstar_cli.records import Problem, Verdict

BINS = 20
"""Bins of a histogram of values in [-1, 1]."""
MOST = 1000
"""Searches of a round that the page lists, unsolved ones first: with the texts of more it would grow too large."""
ANSWERS = 4
"""Different answers of a search that are told."""
FATES = {
    "error": "its code raised an error",
    "timeout": "its code ran too long",
    "out of memory": "its code wanted too much memory",
    "stopped otherwise": "its code was ended by the sandbox: a forbidden call, too much output",
    "no step": "not in the form of a step: a tag is missing, or out of place",
    "duplicate": "the same text as another candidate of its place",
    "too deep": "it ran, but stands at the depth limit without an answer",
}
"""What a fate of a dropped candidate means."""
_FAILURES = {"error": "error", "timeout": "timeout", "memory": "out of memory"}
_FATES = {"malformed": "no step", "duplicate": "duplicate", "depth": "too deep"}
RAN = "ran"
"""Fate of a candidate that a search could go on from, or that is an answer."""


@dataclass(slots=True)
class Searches:
    """Of one round.

    Attributes:
        fates: candidate steps by what became of them.
        q: visited steps by Q, BINS bins over [-1, 1].
        listed: of each problem [id, level, text, gold, right, finished, answers, dropped]: solutions with a right
            answer (None: none was graded), and with any; the answers [[answer, verdict, times]], the commonest first;
            dropped candidates {fate: how many}.
        in_all: searches; more than are listed where there are more than MOST.
    """

    fates: Counter[str] = field(default_factory=Counter)
    q: list[int] = field(default_factory=lambda: [0] * BINS)
    listed: list[list[Any]] = field(default_factory=list)
    in_all: int = 0


def read_searches(files: RoundDir, verdicts: Mapping[tuple[str, int], str]) -> Searches:
    """Read a round's trees; of a round without any the account is empty.

    Args:
        files: of the round.
        verdicts: of verified solutions, by problem and leaf; they stand before what the search itself held of them.
    """
    found = Searches()
    problems = {p.id: p for p in read_rows(files.problems, Problem)} if files.problems.exists() else {}
    for _, row in read_objects(files.trees) if files.trees.exists() else ():
        tree: dict[str, Any] = row
        dropped = _count(tree, found)
        found.listed.append(_listed(tree, dropped, problems.get(tree["problem_id"]), verdicts))
        found.in_all += 1
    found.listed.sort(key=lambda row: bool(row[4]))  # stable: in the order of the problems otherwise
    del found.listed[MOST:]
    return found


def _count(tree: dict[str, Any], found: Searches) -> Counter[str]:
    """Put a tree's steps on the round's account; what became of its dropped ones."""
    dropped: Counter[str] = Counter()
    for node in tree["nodes"][1:]:
        fate = _fate(node)
        found.fates[fate] += 1
        dropped[fate] += fate != RAN
        if node["visits"]:
            found.q[min(BINS - 1, int((node["q"] + 1) / 2 * BINS))] += 1
    return +dropped


def _fate(node: dict[str, Any]) -> str:
    stop = node["stop"]
    if stop == "failed":
        return _FAILURES.get((node["execution"] or {}).get("status", ""), "stopped otherwise")
    return str(_FATES.get(stop, RAN))


def _listed(
    tree: dict[str, Any], dropped: Counter[str], problem: Problem | None, verdicts: Mapping[tuple[str, int], str]
) -> list[Any]:
    name = tree["problem_id"]
    leaves = [node for node in tree["nodes"] if node["stop"] == "answer" and node["visits"]]
    answers = Counter((leaf["answer"], verdicts.get((name, leaf["id"]), leaf["verdict"])) for leaf in leaves)
    right = sum(times for (_, verdict), times in answers.items() if verdict == Verdict.CORRECT)
    graded = any(verdict is not None for _, verdict in answers)
    told = [[answer, verdict, times] for (answer, verdict), times in answers.most_common(ANSWERS)]
    asked = (problem.level, problem.problem, problem.answer) if problem is not None else (None, tree["prompt"], "")
    return [name, *asked, right if graded or not answers else None, len(leaves), told, dict(dropped)]
