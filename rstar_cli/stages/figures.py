"""Figures of an evaluation: every method that a file of rows tells of. Pure: rows in, figures out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rstar_cli.metrics import accuracy_by_level, best_of, estimate, pass_at_k, vote
from rstar_cli.records import EvalRow, EvalSample, Verdict

Choose = Callable[[Sequence[EvalSample]], int | None]
"""Which of a problem's solutions is taken as its answer; None: no solution has one."""


def figures_of(kind: str, rows: Sequence[EvalRow]) -> dict[str, dict[str, Any]]:
    """Figures by method.

    Args:
        kind: `greedy`, `samples`, or a search as `mcts@r`: the middle part of the rows' file name.
        rows: of all problems.
    """
    if kind != "samples":
        return {kind: _chosen(rows, _likely)}
    n = min(len(row.samples) for row in rows)
    methods = {f"majority@{n}": _chosen(rows, _majority)}
    if any(sample.score is not None for row in rows for sample in row.samples):
        methods |= {f"best_of_n@{n}": _chosen(rows, _best), f"weighted@{n}": _chosen(rows, _weighted)}
    return methods | {f"pass@{k}": _passed(rows, k) for k in (1, n)}


def kind_of(method: str) -> str:
    """The kind of rows that a method's figures are of."""
    return "samples" if method.partition("@")[0] in ("majority", "best_of_n", "weighted", "pass") else method


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


def _value(sample: EvalSample) -> float:
    """The PRM's value moved to [0, 1]; 1 without a PRM."""
    return 1.0 if sample.score is None else (1 + sample.score) / 2


def _chosen(rows: Sequence[EvalRow], choose: Choose) -> dict[str, Any]:
    """Accuracy of one answer a problem."""
    verdicts: list[Verdict] = []
    for row in rows:
        picked = choose(row.samples)
        given_up = all(sample.verdict is Verdict.ERROR for sample in row.samples)
        none = Verdict.ERROR if row.samples and given_up else Verdict.NO_ANSWER
        verdicts.append(row.samples[picked].verdict if picked is not None else none)
    right = [float(verdict is Verdict.CORRECT) for verdict in verdicts]
    counts = Counter(verdicts)
    return {
        **_accuracy(rows, right),
        "verdicts": {verdict.value: counts[verdict] for verdict in Verdict if counts[verdict]},
        "tokens": sum(row.tokens for row in rows),
    }


def _passed(rows: Sequence[EvalRow], k: int) -> dict[str, Any]:
    """Chance that one of k samples is right."""
    values = [pass_at_k(len(r.samples), sum(s.verdict is Verdict.CORRECT for s in r.samples), k) for r in rows]
    tokens = sum(row.tokens * k / len(row.samples) for row in rows)
    return {**_accuracy(rows, values), "tokens": round(tokens)}


def _accuracy(rows: Sequence[EvalRow], values: Sequence[float]) -> dict[str, Any]:
    levels = accuracy_by_level((row.level, value) for row, value in zip(rows, values, strict=True))
    return {**estimate(values), "by_level": levels}
