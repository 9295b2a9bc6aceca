"""The decode loop: rows of many requests in one batch; a new request takes the place of rows that ended.

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

SHRINK_BELOW = 0.6
"""Share of live rows at which the batch is made smaller (copying the states costs about half a step)."""

ROOM = 64
"""Tokens by which the rows' place grows."""

_GOLDEN = 0x9E3779B97F4A7C15

Forward = Callable[["Tensor", "Tensor", BatchStates], "Tensor"]
"""(input ids [rows, q], positions [rows, q], states) -> logits of the last position [rows, vocabulary]."""


@dataclass(slots=True, eq=False)
class Row:
    """One sample under way.

    Attributes:
        ticket: its request.
        draw: its number among the request's samples.
        key: 64-bit key of its random numbers.
        temperature: 0 is greedy.
        stop: tags that end it.
        limit: most tokens.
        start: tokens of its prefix.
        ids: tokens sampled so far, the end-of-sequence token left out.
        logprobs: of each, at temperature 1.
        ends: token counts at which its segments end.
        finish: why it ended; None while it runs.
    """

    ticket: int
    draw: int
    key: int
    temperature: float
    stop: tuple[str, ...]
    limit: int
    start: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix whose states are kept but for its last token, and the rows that go on from it.

    Attributes:
        length: tokens.
        last: its last token.
        entry: the kept states; None for a prefix of one token.
        rows: samples.
    """

    length: int
    last: int
    entry: Entry | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the loop knows of a model: (layers, kv_heads, head_dim), number format and device."""

    states: tuple[int, int, int]
    dtype: Any
    device: Any


@dataclass(frozen=True, slots=True)
class Endings:
    """How rows end.

    Attributes:
        closes: told of a row whose newest token may close a tag: notes segment ends, returns whether the row stops.
        may_close: [vocabulary] bool: tokens that may close a tag.
        eos: end-of-sequence tokens.
    """

    closes: Callable[[Row], bool]
    may_close: Tensor
    eos: frozenset[int]


def signed64(number: int) -> int:
    """The low 64 bits of a number, as PyTorch's int64 has them."""
    low = number & ((1 << 64) - 1)
    return low - (1 << 64) if low >> 63 else low


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) of 53 bits: splitmix64 (Steele et al. 2014) of key and step. Shape [rows], float64."""
    x = keys + (steps + 1) * signed64(_GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * signed64(factor)
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def pick(logits: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a token for each row by inverting the cumulative distribution; temperature 0 takes the likeliest.

    Args:
        logits: [rows, vocabulary].
        temperatures: [rows], float32.
        keys: [rows], int64.
        steps: number of the token in its row, [rows], int64.

    Returns:
        Tokens [rows] and their log-probabilities at temperature 1 [rows].
    """
    logprobs = logits.float().log_softmax(-1)
    greedy = temperatures <= 0
    weights = (logprobs / temperatures.masked_fill(greedy, 1.0)[:, None]).softmax(-1)
    cumulative = weights.double().cumsum(-1)
    target = uniforms(keys, steps)[:, None] * cumulative[:, -1:]
    sampled = (cumulative <= target).sum(-1).clamp_(max=logits.shape[-1] - 1)
    tokens = sampled.where(~greedy, logprobs.argmax(-1)) if bool(greedy.any()) else sampled
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


class DecodeLoop:
    """A batch of rows under way.

    Args:
        forward: the model.
        shape: of the model.
        endings: how rows end.
        keep: told (row, states [layers, 2, kv_heads, tokens, head_dim]) when a row ends; the states are those of its
            prefix's last token and of its sampled tokens but the last.
    """

    def __init__(self, forward: Forward, shape: Shape, endings: Endings, keep: Callable[[Row, Tensor], None]) -> None:
        import torch

        self._forward = forward
        self._shape = shape
        self._endings = endings
        self._keep = keep
        self._slots: list[Row | None] = []
        self._states = BatchStates(shape.states, 0, ROOM, shape.dtype, shape.device)
        empty = torch.zeros(0, dtype=torch.int64, device=shape.device)
        self._tokens, self._lengths, self._keys = empty, empty, empty
        self._temperatures = empty.float()

    @property
    def live(self) -> int:
        """Rows under way."""
        return sum(row is not None for row in self._slots)

    def add(self, prefixes: Sequence[Prefix]) -> None:
        """Take in new rows; each begins by running its prefix's last token."""
        import torch

        device = self._shape.device
        rows = [row for prefix in prefixes for row in prefix.rows]
        longest = max(prefix.length for prefix in prefixes)
        places = self._place(rows, longest)
        first: list[int] = []
        begin = 0
        for prefix in prefixes:
            self._states.load(places[begin], prefix.entry)
            first += [places[begin]] * len(prefix.rows)
            begin += len(prefix.rows)
        copies = [(to, of) for to, of in zip(places, first, strict=True) if to != of]
        if copies:
            to, of = (torch.tensor(side, device=device) for side in zip(*copies, strict=True))
            self._states.buffer[:, :, to, :, :longest] = self._states.buffer[:, :, of, :, :longest]
        index = torch.tensor(places, device=device)
        owners = [prefix for prefix in prefixes for _ in prefix.rows]
        self._tokens[index] = torch.tensor([prefix.last for prefix in owners], device=device)
        self._lengths[index] = torch.tensor([prefix.length - 1 for prefix in owners], device=device)
        self._keys[index] = torch.tensor([row.key for row in rows], device=device)
        self._temperatures[index] = torch.tensor([row.temperature for row in rows], device=device)

    def step(self) -> list[Row]:
        """Sample one token for every row; returns the rows that ended by it."""
        import torch

        self._shrink()
        if int(self._lengths.max()) >= self._states.tokens:
            self._states = self._states.resized(len(self._slots), self._states.tokens + ROOM)
        logits = self._forward(self._tokens[:, None], self._lengths[:, None], self._states)
        live = [(i, row) for i, row in enumerate(self._slots) if row is not None]
        steps = torch.tensor([len(row.ids) if row is not None else 0 for row in self._slots], device=self._shape.device)
        tokens, logprobs = pick(logits, self._temperatures, self._keys, steps)
        self._lengths += 1
        self._tokens = tokens
        index = torch.tensor([i for i, _ in live], device=self._shape.device)
        return self._advance(live, tokens[index], logprobs[index])

    def _place(self, rows: Sequence[Row], tokens: int) -> list[int]:
        """Put rows into free slots, making more where there are too few; returns the slots."""
        import torch

        free = [i for i, row in enumerate(self._slots) if row is None]
        more = max(0, len(rows) - len(free))
        if more or tokens >= self._states.tokens:
            self._states = self._states.resized(
                len(self._slots) + more, max(self._states.tokens, tokens + ROOM if tokens >= self._states.tokens else 0)
            )
        if more:
            free += range(len(self._slots), len(self._slots) + more)
            self._slots += [None] * more
            added = torch.zeros(more, dtype=torch.int64, device=self._shape.device)
            self._tokens = torch.cat([self._tokens, added])
            self._lengths = torch.cat([self._lengths, added])
            self._keys = torch.cat([self._keys, added])
            self._temperatures = torch.cat([self._temperatures, added.float()])
        for place, row in zip(free, rows, strict=False):
            self._slots[place] = row
        return free[: len(rows)]

    def _shrink(self) -> None:
        """Cut the free slots out where they are many."""
        import torch

        live = [i for i, row in enumerate(self._slots) if row is not None]
        if len(live) >= SHRINK_BELOW * len(self._slots):
            return
        index = torch.tensor(live, device=self._shape.device)
        room = int(self._lengths[index].max()) + ROOM
        self._states = self._states.resized(len(live), room, index)
        self._slots = [self._slots[i] for i in live]
        self._tokens, self._lengths = self._tokens[index], self._lengths[index]
        self._keys, self._temperatures = self._keys[index], self._temperatures[index]

    def _advance(self, live: Sequence[tuple[int, Row]], tokens: Tensor, logprobs: Tensor) -> list[Row]:
        """Give each live row its token; rows that end by it leave their slot."""
        ended: list[Row] = []
        may_close = self._endings.may_close[tokens].tolist()
        for (place, row), token, logprob, closing in zip(
            live, tokens.tolist(), logprobs.tolist(), may_close, strict=True
        ):
            if token in self._endings.eos:
                row.finish = "eos"
            else:
                row.ids.append(token)
                row.logprobs.append(logprob)
                if closing and self._endings.closes(row):
                    row.finish = "stop"
                elif len(row.ids) >= row.limit:
                    row.finish = "length"
            if row.finish is not None:
                ended.append(row)
                self._slots[place] = None
                self._lengths[place] = 0
                first = row.start - 1
                self._keep(row, self._states.slice(place, first, first + len(row.ids)))
        return ended
