"""Which rows go into which forward pass. Pure: lengths in, row numbers out.

Every epoch shuffles the rows and deals them into pools of a few updates. A pool is sorted by length and cut into
updates of equal tokens, so that rows of an update need little padding; then the updates are shuffled. Equal tokens, not
equal rows: the loss is a mean over an update's tokens, so short rows would weigh more otherwise.

Measured on fine-tuning the embedded model (600 rows, 4 epochs, 4 seeds, held-out loss, nats a token): plain random
updates 0.0940 with 14 % padding, this 0.0939 with 7 %, equal rows from pools 0.0953.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

MicroBatch = tuple[int, ...]
"""Row numbers of one forward and backward pass."""
Update = tuple[MicroBatch, ...]
"""Micro-batches whose gradients are summed before the weights move."""

POOL = 8
"""Updates in a pool: more make padding rarer, and rows of one update more alike."""
OVERHEAD = 256
"""What a forward and backward pass costs beside its tokens, in tokens: 180 to 400 for 0.7 million parameters on a CPU;
of the same order for a 7B model on a GPU, which reads its weights once a pass."""


def plan_updates(
    lengths: Sequence[int],
    *,
    epochs: float,
    batch_size: int,
    batch_tokens: int,
    seed: int,
    packed: bool = False,
    ranks: int = 1,
) -> list[Update]:
    """Lay out a whole training run.

    An epoch is the fewest updates of `batch_size` rows on average at most (40 rows at 32 make two updates of about 20,
    not one of 32 and a noisy one of 8). A broken last epoch takes its share of the updates; there is one at least.

    Args:
        lengths: tokens of each row, each >= 1.
        epochs: passes over the rows, > 0.
        batch_size: rows an update, on average at most.
        batch_tokens: tokens of a micro-batch, padding counted, at most; a longer row goes alone.
        seed: of the row order.
        packed: micro-batches are not padded.
        ranks: processes that share each micro-batch, so that it may be so many times as large.
    """
    rng = random.Random(seed)
    per_epoch = math.ceil(len(lengths) / batch_size)
    total = max(1, round(epochs * per_epoch))
    plan: list[Update] = []
    while len(plan) < total:
        for rows in _epoch(lengths, per_epoch, rng):
            if packed:
                plan.append(pack(rows, lengths, ranks * batch_tokens))
            else:
                plan.append(cut(rows, lengths, batch_tokens, ranks))
    return plan[:total]


def _epoch(lengths: Sequence[int], updates: int, rng: random.Random) -> list[list[int]]:
    """The rows of each update."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pools = math.ceil(updates / POOL)
    epoch: list[list[int]] = []
    for i in range(pools):
        pool = sorted(order[len(order) * i // pools : len(order) * (i + 1) // pools], key=lambda row: lengths[row])
        parts = updates * (i + 1) // pools - updates * i // pools
        epoch += _share(pool, lengths, parts)
    rng.shuffle(epoch)
    return epoch


def _share(rows: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Cut rows, in their order, into non-empty parts of about equal tokens."""
    left = sum(lengths[row] for row in rows)
    shares: list[list[int]] = []
    start = 0
    for part in range(parts, 0, -1):  # `part` parts are still to fill
        end, taken, goal = start, 0, left / part
        while end < len(rows) - (part - 1) and (end == start or taken + lengths[rows[end]] / 2 <= goal):
            taken += lengths[rows[end]]
            end += 1
        if part == 1:
            end = len(rows)
        shares.append(list(rows[start:end]))
        start, left = end, left - taken
    return shares


def cut(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int, ranks: int = 1) -> Update:
    """Cut the rows of an update into the cheapest micro-batches of at most `batch_tokens` padded tokens a rank.

    The best cut of the first k rows is the cheapest of: a best cut of the first j < k, then one micro-batch of the
    rest, which is padded to row k's length. Quadratic in the rows of an update: microseconds a row.
    """
    ordered = sorted(rows, key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # per k: the cost, and where its last micro-batch starts
    for k, row in enumerate(ordered, start=1):
        longest = lengths[row]
        most = ranks * max(1, batch_tokens // longest)
        costs = ((best[j][0] + math.ceil((k - j) / ranks) * longest + OVERHEAD, j) for j in range(max(0, k - most), k))
        best.append(min(costs))
    batches: list[MicroBatch] = []
    end = len(ordered)
    while end:
        start = best[end][1]
        batches.append(tuple(ordered[start:end]))
        end = start
    return tuple(reversed(batches))


def pack(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Update:
    """Pack the rows of an update into few micro-batches of at most `batch_tokens` tokens (best fit decreasing)."""
    batches: list[list[int]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -lengths[row]):
        fitting = [i for i, left in enumerate(room) if left >= lengths[row]]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
        else:
            best = len(batches)
            batches.append([])
            room.append(batch_tokens)
        batches[best].append(row)
        room[best] -= lengths[row]
    return tuple(map(tuple, batches))
