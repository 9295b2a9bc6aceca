"""The decode loop: many prefixes, n samples each, one batch that shrinks as rows end.

Random numbers are counters, not a stream: the number for token t of sample i of a request is a hash of (seed, i, t), so
a sample depends on nothing that runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rstar_cli.engines.cache import BatchStates, Entry
from rstar_cli.protocols import Finish

if TYPE_CHECKING:
    from torch import Tensor

SHRINK_BELOW = 0.75
"""Share of live rows at which finished ones are cut out of the batch (copying the states costs about one step)."""

ROOM = 24
"""Tokens that the states have place for before they are moved to a larger buffer."""

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class Row:
    """One sample under way.

    Attributes:
        request: index of its request.
        key: 64-bit key of its random numbers.
        stop: tags that end it.
        limit: most tokens.
        ids: tokens sampled so far, the end-of-sequence token left out.
        logprobs: of each, at temperature 1.
        ends: token counts at which its segments end.
        finish: why it ended; None while it runs.
    """

    request: int
    key: int
    stop: tuple[str, ...]
    limit: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix whose states are kept but for its last token.

    Attributes:
        length: tokens.
        last: its last token.
        entry: the kept states; None for a prefix of one token.
    """

    length: int
    last: int
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the loop knows of a model: (layers, kv_heads, head_dim), number format and device."""

    states: tuple[int, int, int]
    dtype: Any
    device: Any


def signed64(number: int) -> int:
    """The low 64 bits of a number, as PyTorch's int64 has them."""
    low = number & ((1 << 64) - 1)
    return low - (1 << 64) if low >> 63 else low


def uniforms(keys: Tensor, step: int) -> Tensor:
    """Uniform numbers in [0, 1) of 53 bits: splitmix64 (Steele et al. 2014) of key and step. Shape [rows], float64."""
    x = keys + signed64((step + 1) * _GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * signed64(factor)
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def pick(logits: Tensor, temperatures: Tensor, keys: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Sample a token for each row by inverting the cumulative distribution; temperature 0 takes the likeliest.

    Args:
        logits: [rows, vocabulary].
        temperatures: [rows, 1].
        keys: [rows], int64.
        step: number of the token in its row.

    Returns:
        Tokens [rows] and their log-probabilities at temperature 1 [rows].
    """
    logprobs = logits.float().log_softmax(-1)
    greedy = temperatures <= 0
    weights = (logprobs / temperatures.masked_fill(greedy, 1.0)).softmax(-1)
    cumulative = weights.double().cumsum(-1)
    target = uniforms(keys, step)[:, None] * cumulative[:, -1:]
    sampled = (cumulative <= target).sum(-1).clamp_(max=logits.shape[-1] - 1)
    tokens = sampled.where(~greedy[:, 0], logprobs.argmax(-1)) if bool(greedy.any()) else sampled
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def decode(
    forward: Callable[..., Tensor],
    shape: Shape,
    prefixes: Sequence[Prefix],
    rows: Sequence[Row],
    temperature: Sequence[float],
    ends_row: Callable[[Row], bool],
    closing: Tensor,
    eos: frozenset[int],
    keep: Callable[[Row, int, Tensor], None],
) -> int:
    """Decode every row to its end.

    Args:
        forward: (input ids, positions, mask, states) -> logits of the last position [rows, vocabulary].
        shape: of the model.
        prefixes: one a request.
        rows: the samples; `rows[i].request` is an index into `prefixes`.
        temperature: one a request.
        ends_row: told of a row whose newest token may close a tag: notes segment ends, returns whether it stops.
        closing: [vocabulary] bool: tokens that may close a tag.
        eos: end-of-sequence tokens.
        keep: told (row, first token, states [layers, 2, kv_heads, tokens, head_dim]) when a row ends, the states being
            those of its tokens but the last.

    Returns:
        Tokens sampled.
    """
    import torch

    device = shape.device
    start = max(prefix.length for prefix in prefixes) - 1
    longest = max(row.limit for row in rows)
    states = BatchStates(shape.states, [p.entry for p in prefixes], start, 1, shape.dtype, device)
    lengths = torch.tensor([prefix.length for prefix in prefixes], device=device)
    slots = torch.arange(start + longest + 1, device=device)
    mask = slots[None] > start - lengths[:, None]  # [requests, slots]: left padding is hidden
    tokens = torch.tensor([prefix.last for prefix in prefixes], device=device)
    logits = forward(tokens[:, None], lengths[:, None] - 1, mask[:, None, None, : start + 1], states)

    owner = torch.tensor([row.request for row in rows], device=device)
    states.filled += 1
    states.take(owner, ROOM)  # one pass over a prefix serves all samples that share it
    logits, mask, lengths = logits[owner], mask[owner], lengths[owner]
    heat = torch.tensor([temperature[row.request] for row in rows], device=device, dtype=torch.float32)[:, None]
    keys = torch.tensor([row.key for row in rows], device=device, dtype=torch.int64)
    live = list(rows)
    sampled = 0
    for step in range(longest):
        tokens, logprobs = pick(logits, heat, keys, step)
        sampled += sum(row.finish is None for row in live)
        ended = _advance(live, tokens, logprobs, closing, ends_row, eos)
        for i in ended:
            keep(live[i], start, states.slice(i, start, start + 1 + step))
        left = [i for i, row in enumerate(live) if row.finish is None]
        if not left:
            break
        if len(left) < SHRINK_BELOW * len(live):
            index = torch.tensor(left, device=device)
            states.take(index, ROOM)
            tokens, mask, lengths, heat, keys = (t[index] for t in (tokens, mask, lengths, heat, keys))
            live = [live[i] for i in left]
        states.make_room(1, ROOM)
        logits = forward(tokens[:, None], (lengths + step)[:, None], mask[:, None, None, : states.filled + 1], states)
        states.filled += 1
    return sampled


def _advance(
    live: Sequence[Row],
    tokens: Tensor,
    logprobs: Tensor,
    closing: Tensor,
    ends_row: Callable[[Row], bool],
    eos: frozenset[int],
) -> list[int]:
    """Give each live row its token; returns the indices of rows that ended by it."""
    ended: list[int] = []
    may_close = closing[tokens].tolist()
    for i, (row, token, logprob) in enumerate(zip(live, tokens.tolist(), logprobs.tolist(), strict=True)):
        if row.finish is not None:
            continue
        if token in eos:
            row.finish = "eos"
        else:
            row.ids.append(token)
            row.logprobs.append(logprob)
            if may_close[i] and ends_row(row):
                row.finish = "stop"
            elif len(row.ids) >= row.limit:
                row.finish = "length"
        if row.finish is not None:
            ended.append(i)
    return ended
