"""Accuracy and its uncertainty. Pure: takes outcomes, never grades."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927).

    Args:
        successes: 0 to n.
        n: trials; 0 gives (0, 1): nothing is known.

    Returns:
        Lower and upper bound in [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def accuracy(outcomes: Sequence[bool]) -> dict[str, float | int | list[float]]:
    """Share of right outcomes as `accuracy`, with `ci95` [lower, upper] and `n`."""
    right = sum(outcomes)
    return {
        "accuracy": right / len(outcomes) if outcomes else 0.0,
        "ci95": list(wilson(right, len(outcomes))),
        "n": len(outcomes),
    }


def accuracy_by_level(outcomes: Iterable[tuple[int | None, bool]]) -> dict[str, dict[str, float | int | list[float]]]:
    """Accuracy of each level, keyed by the level's text, in order; problems without a level are left out."""
    levels: defaultdict[int, list[bool]] = defaultdict(list)
    for level, right in outcomes:
        if level is not None:
            levels[level].append(right)
    return {str(level): accuracy(levels[level]) for level in sorted(levels)}
