"""The decode loop: rows of many requests in one batch, which new rows may join at any step.

Random numbers are counters, not a stream: the number for token t of sample i of a request is a hash of (seed, i, t), so
a sample depends on nothing that runs beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rstar_cli.engines.cache import BatchStates, Entry
from rstar_cli.protocols import LEAST_SHARE, Drawn, Finish

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 64
"""Tokens by which the place of the rows grows."""

PICK_CELLS = 1 << 25
"""Most logits that are sampled from at once, so that a vocabulary of 150,000 does not fill the memory."""

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
        start: tokens of its prefix, the opening left out.
        ids: tokens of the opening, then those sampled so far, the end-of-sequence token left out.
        given: tokens of the opening.
        alternatives: likeliest tokens to tell of at each new one.
        logprobs: of each sampled token, at temperature 1.
        told: of each, the end-of-sequence token too, where asked for.
        ends: token counts at which its segments end, the opening counted.
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
    given: int = 0
    alternatives: int = 0
    logprobs: list[float] = field(default_factory=list)
    told: list[Drawn] = field(default_factory=list)
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

    @property
    def token_bytes(self) -> int:
        """Memory of a token's keys and values."""
        layers, heads, width = self.states
        return 2 * layers * heads * width * int(self.dtype.itemsize)


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


@dataclass(frozen=True, slots=True)
class Picked:
    """What was sampled for each row.

    Attributes:
        tokens: [rows].
        logprobs: theirs at temperature 1, [rows].
        forks: places of the rows where another token than the sampled one is likely, too, [forks].
        likely: the likeliest tokens there, likeliest first, [forks, alternatives].
        likely_logprobs: theirs, [forks, alternatives].
    """

    tokens: Tensor
    logprobs: Tensor
    forks: Tensor
    likely: Tensor
    likely_logprobs: Tensor


def pick(logits: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor, alternatives: int = 0) -> Picked:
    """Sample a token for each row by inverting the cumulative distribution; temperature 0 takes the likeliest.

    The sums are float64: last-digit differences of the logits, which do depend on the batch, then hardly ever tip a
    choice.

    Args:
        logits: [rows, vocabulary].
        temperatures: [rows], float32.
        keys: [rows], int64.
        steps: number of the token in its row, [rows], int64.
        alternatives: how many of the likeliest tokens to tell of.
    """
    import torch

    rows, vocabulary = logits.shape
    most = max(1, PICK_CELLS // vocabulary)
    if rows > most:
        bounds = [(begin, begin + most) for begin in range(0, rows, most)]
        parts = [pick(logits[a:b], temperatures[a:b], keys[a:b], steps[a:b], alternatives) for a, b in bounds]
        parts = [replace(part, forks=part.forks + begin) for part, (begin, _) in zip(parts, bounds, strict=True)]
        return Picked(*(torch.cat([getattr(part, name) for part in parts]) for name in Picked.__slots__))
    logprobs = logits.float().log_softmax(-1)
    greedy = temperatures <= 0
    weights = (logprobs / temperatures.masked_fill(greedy, 1.0)[:, None]).softmax(-1)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    target = uniforms(keys, steps)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=vocabulary - 1)
    if bool(greedy.any()):
        tokens = torch.where(greedy, logits.argmax(-1), tokens)
    own = logprobs.gather(-1, tokens[:, None])[:, 0]
    forks = tokens[:0]
    if alternatives:  # to find the next likely token costs a small part of what sorting all of them does
        others = logprobs.scatter(-1, tokens[:, None], -math.inf).amax(-1)
        forks = (others >= _least(own, temperatures)).nonzero()[:, 0]
    likely = logprobs[forks].topk(min(alternatives, vocabulary), -1)
    return Picked(tokens, own, forks, likely.indices, likely.values)


def _least(highest: Tensor, temperatures: Tensor) -> Tensor:
    """The least log-probability at which a token beside the likeliest one is worth telling of, [rows]."""
    return highest + math.log(LEAST_SHARE) * temperatures


def _likely(picked: Picked, temperatures: Tensor) -> dict[int, tuple[list[int], list[float]]]:
    """Of each row that might have gone on otherwise, by its place: the likely tokens and their log-probabilities."""
    values = picked.likely_logprobs
    counts = (values >= _least(values[:, 0], temperatures[picked.forks])[:, None]).sum(-1).tolist()
    rounded = values.double().round(decimals=4).tolist()
    told = zip(picked.forks.tolist(), picked.likely.tolist(), rounded, counts, strict=True)
    return {place: (ids[:count], logprobs[:count]) for place, ids, logprobs, count in told}


def _told(token: int, logprob: float, likely: tuple[list[int], list[float]], most: int) -> Drawn:
    """A sampled token with at most so many of the likeliest ones, itself among them."""
    ids, logprobs = likely[0][:most], likely[1][:most]
    if token not in ids:
        ids.append(token)
        logprobs.append(round(logprob, 4))
    return Drawn(token, tuple(ids), tuple(logprobs))


class DecodeLoop:
    """A batch of rows under way. Rows lie side by side; one that ends gives its place to the last ones.

    Args:
        forward: the model.
        shape: of the model.
        endings: how rows end.
        keep: told (row, states [layers, 2, kv_heads, tokens, head_dim]) when a row ends; the states are those of the
            last token before the sampled ones, and of the sampled ones but the last.
    """

    def __init__(self, forward: Forward, shape: Shape, endings: Endings, keep: Callable[[Row, Tensor], None]) -> None:
        import torch

        self._forward = forward
        self._shape = shape
        self._endings = endings
        self._keep = keep
        self._rows: list[Row] = []
        self._states = BatchStates(shape.states, 0, 0, shape.dtype, shape.device)
        none = torch.zeros(0, dtype=torch.int64, device=shape.device)
        self._tokens, self._positions, self._steps, self._keys = none, none, none, none
        self._temperatures = none.float()

    @property
    def live(self) -> int:
        """Rows under way."""
        return len(self._rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that have keys and values."""
        return max((row.start + len(row.ids) for row in self._rows), default=1) - 1

    def add(self, prefixes: Sequence[Prefix]) -> None:
        """Take in new rows; each begins by running its prefix's last token."""
        import torch

        place = len(self._rows)
        self._reserve(place + sum(len(p.rows) for p in prefixes), max(p.length for p in prefixes))
        for prefix in prefixes:
            self._states.load(place, place + len(prefix.rows), prefix.entry)
            self._rows += prefix.rows
            place += len(prefix.rows)

        def joined(old: Tensor, new: list[Any]) -> Tensor:
            return torch.cat([old, torch.tensor(new, dtype=old.dtype, device=old.device)])

        each = [(prefix, row) for prefix in prefixes for row in prefix.rows]
        self._tokens = joined(self._tokens, [prefix.last for prefix, _ in each])
        self._positions = joined(self._positions, [prefix.length - 1 for prefix, _ in each])
        self._steps = joined(self._steps, [0] * len(each))
        self._keys = joined(self._keys, [row.key for _, row in each])
        self._temperatures = joined(self._temperatures, [row.temperature for _, row in each])

    def step(self) -> list[Row]:
        """Sample one token for every row; returns the rows that ended by it."""
        self._reserve(len(self._rows), self.longest + 1)
        logits = self._forward(self._tokens[:, None], self._positions[:, None], self._states)
        most = max(row.alternatives for row in self._rows)
        picked = pick(logits, self._temperatures, self._keys, self._steps, most)
        self._tokens = picked.tokens
        self._positions = self._positions + 1
        self._steps = self._steps + 1
        ended = self._advance(picked)
        rows = [self._rows[place] for place in ended]
        for place, row in zip(ended, rows, strict=True):
            end = row.start + len(row.ids) - 1
            self._keep(row, self._states.slice(place, row.start + row.given - 1, end))
        if ended:
            self._remove(ended)
        return rows

    def clear(self) -> None:
        """Drop all rows."""
        self._remove(list(range(len(self._rows))))

    def _reserve(self, rows: int, tokens: int) -> None:
        """Have place for so many rows and tokens."""
        have_rows, have_tokens = self._states.room
        if rows > have_rows or tokens > have_tokens:
            more = tokens + ROOM if tokens > have_tokens else have_tokens
            self._states = self._states.grown(max(rows, have_rows), more, len(self._rows))

    def _advance(self, picked: Picked) -> list[int]:
        """Give each row its token; returns the places of those that ended by it, in order."""
        ended: list[int] = []
        eos, closes = self._endings.eos, self._endings.closes
        may_close = self._endings.may_close[self._tokens].tolist()
        tokens, logprobs = picked.tokens.tolist(), picked.logprobs.tolist()
        likely = _likely(picked, self._temperatures) if len(picked.forks) else {}
        alone: tuple[list[int], list[float]] = ([], [])
        for place, (row, token, logprob) in enumerate(zip(self._rows, tokens, logprobs, strict=True)):
            if row.alternatives:
                row.told.append(_told(token, logprob, likely.get(place, alone), row.alternatives))
            if token in eos:
                row.finish = "eos"
            else:
                row.ids.append(token)
                row.logprobs.append(logprob)
                if may_close[place] and closes(row):
                    row.finish = "stop"
                elif len(row.logprobs) >= row.limit:
                    row.finish = "length"
            if row.finish is not None:
                ended.append(place)
        return ended

    def _remove(self, ended: Sequence[int]) -> None:
        """Take rows out: the last live ones move to their places."""
        import torch

        left = len(self._rows) - len(ended)
        if not left:  # an idle loop holds no memory
            self._states = BatchStates(self._shape.states, 0, 0, self._shape.dtype, self._shape.device)
        gone = set(ended)
        to = [place for place in ended if place < left]
        of = [place for place in range(left, len(self._rows)) if place not in gone]
        targets, sources = (torch.tensor(places, device=self._shape.device) for places in (to, of))

        def packed(values: Tensor) -> Tensor:
            if to:
                values[targets] = values[sources]
            return values[:left]

        if to:
            self._states.move(targets, sources, self.longest)
        self._tokens, self._positions, self._steps, self._keys, self._temperatures = map(
            packed, (self._tokens, self._positions, self._steps, self._keys, self._temperatures)
        )
        for target, source in zip(to, of, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[left:]
