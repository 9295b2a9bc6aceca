"""What engines share: prefixes whose states are kept, and forward passes that go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rstar_cli.engines.cache import TILE, BatchStates, Entry, Ids, PrefixCache, key_width, whole
from rstar_cli.engines.decode import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from rstar_cli.protocols import Segment
    from rstar_cli.tokens import StepTokenizer

BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
"""New tokens, padding counted, of one forward pass; more would not stay in a CPU's cache between layers."""

Forward = Callable[["Tensor", "Tensor", BatchStates], "Tensor"]
"""(input ids [rows, q], positions [rows, q], states) -> what the model makes of them, [rows, ...]."""


class Extension(Protocol):
    """New tokens that go on from kept states."""

    @property
    def entry(self) -> Entry | None:
        """The kept states; None: from the first token."""

    @property
    def new(self) -> Ids:
        """Tokens to run, at least one."""


class CachedPrefix:
    """The token ids of a prefix, and how far its states are kept.

    Attributes:
        ids: token ids of the whole prefix.
        prompt: the prompt's.
        ends: token counts at which the prefix's segments end.
        entry: the longest part whose states are kept, as far as is known.
    """

    __slots__ = ("ends", "entry", "ids", "prompt")

    def __init__(self, segments: Sequence[Segment], tokenizer: StepTokenizer, opening: Ids = ()) -> None:
        self.prompt: Ids = tuple(tokenizer.prefix_ids(segments[:1]))
        self.ids, ends = lengthened(self.prompt, segments[1:], tokenizer)
        self.ends = [len(self.prompt), *ends]
        if opening:
            self.ids += opening
            self.ends.append(len(self.ids))
        self.entry: Entry | None = None

    @property
    def covered(self) -> int:
        """Tokens with kept states."""
        return self.entry.covered if self.entry is not None else 0

    @property
    def goal(self) -> int:
        """Tokens up to the end of the first segment whose states are not all kept; 0 if all are."""
        return next((end for end in self.ends if end - 1 > self.covered), 0)

    @property
    def new(self) -> Ids:
        """Tokens of that segment, the last one left out, that must go through the model first."""
        return self.ids[self.covered : max(self.covered, self.goal - 1)]


E = TypeVar("E", bound=Extension)
P = TypeVar("P", bound=CachedPrefix)


def lengthened(ids: Ids, segments: Iterable[Segment], tokenizer: StepTokenizer) -> tuple[Ids, list[int]]:
    """Put segments after ids; returns all ids, and the token count at which each of the segments ends."""
    longer, ends = list(ids), []
    for segment in segments:
        longer += tokenizer.segment_ids(segment)
        ends.append(len(longer))
    return tuple(longer), ends


def batches(rows: Iterable[E], shape: Shape, room: int) -> Iterator[list[E]]:
    """Cut rows into batches for one forward pass each, rows of like length together.

    Args:
        rows: in any order.
        shape: the model's.
        room: tokens that a batch's keys and values may take, padding counted; a single row may take more.
    """
    most = BATCH_TOKENS[shape.device.type]
    batch: list[E] = []
    longest = 0
    for row, new, end in sorted(((row, *_extent(row)) for row in rows), key=lambda each: each[1:]):
        longest = max(longest, end)
        if batch and ((len(batch) + 1) * new > most or (len(batch) + 1) * longest > room):
            yield batch
            batch, longest = [], end
        batch.append(row)
    if batch:
        yield batch


def _extent(row: Extension) -> tuple[int, int]:
    """New tokens of a row, padded, and all its tokens."""
    new = len(row.new)
    covered = row.entry.covered if row.entry is not None else 0
    return whole(new, 4), covered + new  # `run_model` has whole fours of rows, which makes whole tiles of tokens


def extend(rows: Sequence[Extension], forward: Forward, shape: Shape) -> tuple[Tensor, BatchStates]:
    """Run the new tokens of each row in one forward pass, on top of its kept states.

    Returns:
        What `forward` gives [rows, ...], and the states of all tokens of all rows.
    """
    import torch

    width, end = (max(extents) for extents in zip(*map(_extent, rows), strict=True))
    states = BatchStates(shape.states, len(rows), key_width(end, width), shape.dtype, shape.device)
    ids: list[Ids] = []
    positions: list[list[int]] = []
    for row, extension in enumerate(rows):
        states.load(row, row + 1, extension.entry)
        new = extension.new
        covered = extension.entry.covered if extension.entry is not None else 0
        # padding repeats the last token in its place: the same states are written there again
        ids.append(new + new[-1:] * (width - len(new)))
        positions.append([covered + min(i, len(new) - 1) for i in range(width)])
    return forward(torch.tensor(ids).to(shape.device), torch.tensor(positions).to(shape.device), states), states


def prefill(prefixes: Sequence[P], cache: PrefixCache, forward: Forward, shape: Shape, room: int) -> int:
    """Run what is new of each prefix through the model, all but its last token, and keep its states.

    Segment after segment, so that prefixes with a common beginning share its pass.

    Args:
        prefixes: get their `entry`.
        cache: where states are kept.
        forward: the model.
        shape: the model's.
        room: tokens that a batch's keys and values may take.

    Returns:
        Tokens run, padding not counted.
    """
    for prefix in prefixes:
        prefix.entry = cache.longest(prefix.prompt, prefix.ids[:-1])
    run = 0
    while todo := [(prefix.ids[: prefix.goal], prefix) for prefix in prefixes if prefix.new]:
        first = dict(reversed(todo))
        for batch in batches(first.values(), shape, room):
            _, states = extend(batch, forward, shape)
            for row, prefix in enumerate(batch):
                run += len(prefix.new)
                kept = states.slice(row, prefix.covered, prefix.goal - 1)
                prefix.entry = cache.keep(prefix.prompt, prefix.ids[: prefix.goal - 1], prefix.entry, kept)
        for ids, prefix in todo:
            prefix.entry = first[ids].entry
    return run


def run_model(model: Any, ids: Tensor, positions: Tensor, states: BatchStates, **more: Any) -> Any:
    """The model's own forward pass over a batch, in whole tiles of rows.

    Args:
        model: a model of `transformers`.
        ids: [rows, q].
        positions: of the tokens in their sequences, [rows, q].
        states: keys and values before these tokens; theirs are written into it.
        more: further arguments of the model.

    Returns:
        The model's output; the first rows are those asked for.
    """
    import torch

    rows, new = ids.shape
    padding = (0, 0, 0, -rows % (TILE if new == 1 else 4))  # rows of zeros, that write where no row is
    ids, positions = (torch.nn.functional.pad(x, padding) for x in (ids, positions))
    cache, mask = states.at(positions)
    return model(
        input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True, **more
    )
