"""Figures of an evaluation: every method that a file of rows tells of. Pure: rows in, figures out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_cli.metrics import (
    accuracy_by_group,
    best_of,
    best_of_at_k,
    estimate,
    independent_pass,
    pass_at_k,
    vote,
)
from rstar_cli.records import EvalRow, EvalSample, Verdict

Choose = Callable[[Sequence[EvalSample]], int | None]
"""Which of a problem's solutions is taken as its answer; None: no solution has one."""

TOP = 4
"""Solutions of a search that `SEARCH_topK@N` lets vote: as many as upstream (`eval_maj.py --top_n`)."""
WINDOWS = 16
"""About so many subsets of a problem's samples stand for all of one size; more where they are smaller."""
_SAMPLED = ("majority", "best_of_n", "weighted", "pass")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a method made of each problem; all of shape (problems,), in the order of the rows.

    Attributes:
        values: in [0, 1]: whether its answer is right, or (pass@k) the chance that one of k is.
        tokens: that were generated for it.
        verdicts: of its answer; empty where no single one is taken (pass@k).
        picked: which sample gave the answer, None: none has one; empty as `verdicts`.
    """

    values: list[float]
    tokens: list[float]
    verdicts: list[Verdict]
    picked: list[int | None]


def outcomes_of(kind: str, rows: Sequence[EvalRow]) -> dict[str, Outcomes]:
    """Outcomes by method.

    Args:
        kind: `greedy`, `samples`, or a search as `mcts@r`: the middle part of the rows' file name.
        rows: of all problems, at least one.
    """
    scored = any(sample.score is not None for row in rows for sample in row.samples)
    if kind != "samples":
        searched = {top_of(kind): _chosen(rows, _top)} if scored and "@" in kind else {}
        return {kind: _chosen(rows, _likely)} | searched
    n = _samples(rows)
    methods = {f"majority@{n}": _chosen(rows, _majority)}
    if scored:
        methods |= {f"best_of_n@{n}": _chosen(rows, _best), f"weighted@{n}": _chosen(rows, _weighted)}
    return methods | {f"pass@{k}": _passed(rows, k) for k in (1, n)}


def figures_of(kind: str, rows: Sequence[EvalRow]) -> dict[str, dict[str, Any]]:
    """Figures by method; for the arguments see `outcomes_of`.

    Returns:
        By method: accuracy, ci95, n; by_level, and by_subject where problems have one; verdicts, but of pass@k; tokens,
        and tokens_per_solved, None where none is. Of methods of all n samples also `by_n`: the estimate with 1, 2, 4,
        ... of them, keyed by their number's text; beside that of pass@n stands `theory`: the mean of 1 - (1 - p)^k by
        the same k, p being a problem's share of right samples (see `metrics.independent_pass`).
    """
    figures = {method: _figures(rows, outcomes) for method, outcomes in outcomes_of(kind, rows).items()}
    if kind == "samples":
        n = _samples(rows)
        for name, value_at in _BY_N.items():
            if (method := f"{name}@{n}") in figures:
                curve = {str(k): estimate([value_at(row.samples, k) for row in rows]) for k in _sizes(n)}
                figures[method] |= {"by_n": curve}
        figures[f"pass@{n}"] |= {"theory": {str(k): _theory(rows, k) for k in _sizes(n)}}
    return figures


def kind_of(method: str) -> str:
    """The kind of rows that a method's figures are of."""
    name, at, number = method.partition("@")
    return "samples" if name in _SAMPLED else name.removesuffix(f"_top{TOP}") + at + number


def top_of(kind: str) -> str:
    """The method of a search in which the solutions of the highest value vote: `mcts_top4@16` beside `mcts@16`."""
    return kind.replace("@", f"_top{TOP}@")


def _samples(rows: Sequence[EvalRow]) -> int:
    return min(len(row.samples) for row in rows)


def _sizes(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return [*(1 << i for i in range((n - 1).bit_length())), n]


def _majority(samples: Sequence[EvalSample]) -> int | None:
    return vote([s.group for s in samples])


def _best(samples: Sequence[EvalSample]) -> int | None:
    return best_of([s.score for s in samples], [s.group for s in samples])


def _weighted(samples: Sequence[EvalSample]) -> int | None:
    """A vote in which a sampled solution counts by its value."""
    return vote([s.group for s in samples], [_value(s) for s in samples])


def _likely(samples: Sequence[EvalSample]) -> int | None:
    """A vote in which a solution counts by its likelihood times its value.

    Among samples a likely solution stands often; here each stands once, so its likelihood must speak for it.
    """
    likeliest = max((s.logprob for s in samples), default=0.0)
    return vote([s.group for s in samples], [math.exp(s.logprob - likeliest) * _value(s) for s in samples])


def _top(samples: Sequence[EvalSample]) -> int | None:
    """A vote of the `TOP` solutions of the highest value, as upstream's; of equals the one with the best of them wins.

    Upstream takes the best trajectories of several trees and draws among equals; here they are of one tree.
    """
    known = sorted((-s.score, i) for i, s in enumerate(samples) if s.score is not None and s.group is not None)
    places = [place for _, place in known[:TOP]]
    picked = vote([samples[place].group for place in places])
    return None if picked is None else places[picked]


def _value(sample: EvalSample) -> float:
    """The PRM's value moved to [0, 1]; 1 without a PRM."""
    return 1.0 if sample.score is None else (1 + sample.score) / 2


def _chosen(rows: Sequence[EvalRow], choose: Choose) -> Outcomes:
    """Outcomes of one answer a problem."""
    picked = [choose(row.samples) for row in rows]
    verdicts = [
        row.samples[place].verdict if place is not None else _unanswered(row)
        for row, place in zip(rows, picked, strict=True)
    ]
    right = [float(verdict is Verdict.CORRECT) for verdict in verdicts]
    return Outcomes(right, [row.tokens for row in rows], verdicts, picked)


def _unanswered(row: EvalRow) -> Verdict:
    """The verdict where no solution has an answer: `error` where the problem was given up."""
    given_up = row.samples and all(sample.verdict is Verdict.ERROR for sample in row.samples)
    return Verdict.ERROR if given_up else Verdict.NO_ANSWER


def _passed(rows: Sequence[EvalRow], k: int) -> Outcomes:
    """Chance that one of k samples is right."""
    tokens = [row.tokens * k / len(row.samples) for row in rows]
    return Outcomes([_pass_at(row.samples, k) for row in rows], tokens, [], [])


def _figures(rows: Sequence[EvalRow], outcomes: Outcomes) -> dict[str, Any]:
    values, solved = outcomes.values, math.fsum(outcomes.values)
    subjects = accuracy_by_group(zip((row.subject for row in rows), values, strict=True))
    counts = Counter(outcomes.verdicts)
    verdicts = {verdict.value: counts[verdict] for verdict in Verdict if counts[verdict]}
    tokens = math.fsum(outcomes.tokens)
    return {
        **estimate(values),
        "by_level": accuracy_by_group(zip((row.level for row in rows), values, strict=True)),
        **({"by_subject": subjects} if subjects else {}),
        **({"verdicts": verdicts} if verdicts else {}),
        "tokens": round(tokens),
        "tokens_per_solved": round(tokens / solved, 1) if solved else None,
    }


def _right(samples: Sequence[EvalSample]) -> list[bool]:
    return [sample.verdict is Verdict.CORRECT for sample in samples]


def _pass_at(samples: Sequence[EvalSample], k: int) -> float:
    return pass_at_k(len(samples), sum(_right(samples)), k)


def _best_at(samples: Sequence[EvalSample], k: int) -> float:
    return best_of_at_k([s.score for s in samples], [s.group for s in samples], _right(samples), k)


def _by_windows(choose: Choose) -> Callable[[Sequence[EvalSample], int], float]:
    """Share of right answers that `choose` gives on subsets of k samples; all n are one subset, and its own answer."""

    def share(samples: Sequence[EvalSample], k: int) -> float:
        right = []
        for subset in _windows(samples, k):
            picked = choose(subset)
            right.append(picked is not None and subset[picked].verdict is Verdict.CORRECT)
        return sum(right) / len(right)

    return share


def _windows(samples: Sequence[EvalSample], k: int) -> Iterator[list[EvalSample]]:
    """Runs of k samples, the first coming after the last; in the order they were drawn. Nothing here is random.

    Samples are independent, so any subset stands for all; these use each sample about equally often.
    """
    n = len(samples)
    for start in range(0, n if k < n else 1, max(1, min(k, n // WINDOWS))):
        yield [samples[place] for place in sorted((start + i) % n for i in range(k))]


def _theory(rows: Sequence[EvalRow], k: int) -> float:
    chances = [independent_pass(len(row.samples), sum(_right(row.samples)), k) for row in rows]
    return math.fsum(chances) / len(chances)


_BY_N: dict[str, Callable[[Sequence[EvalSample], int], float]] = {
    "majority": _by_windows(_majority),
    "best_of_n": _best_at,
    "weighted": _by_windows(_weighted),
    "pass": _pass_at,
}
"""A problem's value by number of samples: exact expectations over all subsets where a formula gives them."""
