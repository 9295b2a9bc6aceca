"""Which rows go into which forward pass. Pure: lengths in, row numbers out.

An update is a random draw of rows, as plain shuffling gives, so its gradient has no bias towards a length. Inside it
the rows are sorted by length and cut into micro-batches, where each costs its padded tokens plus a fixed overhead.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

MicroBatch = tuple[int, ...]
"""Row numbers of one forward and backward pass."""
Update = tuple[MicroBatch, ...]
"""Micro-batches whose gradients are summed before the weights move."""

OVERHEAD = 192
"""What a forward and backward pass costs beside its tokens, in tokens. Measured for 0.7 million parameters on a CPU;
for a 7B model on a GPU, reading the weights costs about as much."""


def plan_updates(
    lengths: Sequence[int], *, epochs: float, batch_size: int, batch_tokens: int, seed: int
) -> list[Update]:
    """Lay out a whole training run.

    Every epoch shuffles the rows and spreads them evenly over the fewest updates of at most `batch_size` rows (40 rows
    at 32 make two updates of 20, not one of 32 and a noisy one of 8). A broken last epoch takes the share of its
    updates, at least one update in all.

    Args:
        lengths: tokens of each row, each >= 1.
        epochs: passes over the rows, > 0.
        batch_size: rows an update, at most.
        batch_tokens: tokens of a micro-batch, padding counted, at most; a longer row goes alone.
        seed: of the row order.
    """
    rng = random.Random(seed)
    per_epoch = math.ceil(len(lengths) / batch_size)
    total = max(1, round(epochs * per_epoch))
    plan: list[Update] = []
    while len(plan) < total:
        order = list(range(len(lengths)))
        rng.shuffle(order)
        bounds = [len(order) * i // per_epoch for i in range(per_epoch + 1)]
        plan += [cut(order[a:b], lengths, batch_tokens) for a, b in pairwise(bounds)]
    return plan[:total]


def cut(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Update:
    """Cut the rows of an update into the cheapest micro-batches of at most `batch_tokens` padded tokens.

    The best cut of the first k rows is the cheapest of: a best cut of the first j < k, then one micro-batch of the
    rest, which is padded to row k's length. Quadratic in the rows of an update: microseconds a row.
    """
    ordered = sorted(rows, key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # per k: the cost, and where its last micro-batch starts
    for k, row in enumerate(ordered, start=1):
        longest = lengths[row]
        most = max(1, batch_tokens // longest)
        best.append(min((best[j][0] + (k - j) * longest + OVERHEAD, j) for j in range(max(0, k - most), k)))
    batches: list[MicroBatch] = []
    end = len(ordered)
    while end:
        start = best[end][1]
        batches.append(tuple(ordered[start:end]))
        end = start
    return tuple(reversed(batches))
