"""Keys and values kept along the tree, token by token, so that a prefix goes through the model once in its life.

A continuation of a prefix begins by running the prefix's last token, which gives the first logits. So a kept prefix
costs each sample one token of new work, no more, wherever in a step it ends.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Ids = tuple[int, ...]

TILE = 16
"""Batches are padded to whole tiles of rows and keys. Matrix kernels sum what is left over of a tile in another order;
with whole tiles a row's logits are the same to the last bit whatever runs beside it (measured with PyTorch 2.13 in
float32 on a CPU with AVX-512, 1 to 16 threads). So batch size and timing change neither a sample nor its
log-probability."""


def whole(number: int, tile: int = TILE) -> int:
    """The next multiple of a tile."""
    return -(-number // tile) * tile


def key_width(tokens: int, new: int) -> int:
    """Keys that a pass looks at, so that no row's sums hang on how long the longest one is.

    Attention on a CPU takes keys in blocks of 512. Where a block has 193 to 383 of them, the matrix kernel splits the
    sum over them in the middle, wherever that is; with fewer or more, rows come out the same whatever the width
    (measured with MKL 2024.2). So such a block is padded to 384. A pass over one new token takes another kernel, which
    does not split.

    Args:
        tokens: of the longest sequence.
        new: new tokens of each sequence.
    """
    blocks, rest = divmod(whole(tokens), 512)
    return blocks * 512 + (384 if new > 1 and 192 < rest < 384 else rest)


class Entry:
    """Keys and values of some tokens of a prefix, and what goes on from them: a node of a radix tree.

    Attributes:
        ids: the tokens.
        parent: what they go on from; None: they are the first.
        states: [layers, 2, kv_heads, len(ids), head_dim].
        children: entries that go on from here, by first token.
        covered: tokens from the first one to the last of these.
    """

    __slots__ = ("children", "covered", "ids", "parent", "states")

    def __init__(self, ids: Ids, parent: Entry | None, states: Tensor) -> None:
        self.ids = ids
        self.parent = parent
        self.states = states
        self.children: dict[int, Entry] = {}
        self.covered: int = len(ids) + (parent.covered if parent is not None else 0)

    @property
    def bytes(self) -> int:
        """Memory of the states."""
        return self.states.element_size() * self.states.nelement()

    def chain(self) -> Iterator[tuple[int, Tensor]]:
        """(first token, states) from this entry up to the first one."""
        entry: Entry | None = self
        while entry is not None:
            yield entry.covered - len(entry.ids), entry.states
            entry = entry.parent

    def split(self, count: int) -> Entry:
        """Move the first `count` tokens to an entry of their own above this one, and return that. No memory moves."""
        head = Entry(self.ids[:count], self.parent, self.states[:, :, :, :count])
        self.ids, self.parent, self.states = self.ids[count:], head, self.states[:, :, :, count:]
        head.children[self.ids[0]] = self
        return head


class PrefixCache:
    """Entries by token ids, grouped by prompt; the group that was not used for longest goes first when memory is full.

    Args:
        max_bytes: memory for all states. What was dropped is computed again when it is needed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._groups: OrderedDict[Ids, dict[int, Entry]] = OrderedDict()
        self._sizes: Counter[Ids] = Counter()

    def longest(self, prompt: Ids, ids: Ids) -> Entry | None:
        """The entry whose end is the longest beginning of `ids` that is kept; None: nothing is."""
        children = self._groups.get(prompt)
        if children is None:
            return None
        self._groups.move_to_end(prompt)
        entry, covered = None, 0
        while covered < len(ids) and (following := children.get(ids[covered])) is not None:
            there = following.ids
            end = covered + len(there)
            same = len(there) if there == ids[covered:end] else _common(there, ids[covered:end])
            if same < len(there):
                following = children[ids[covered]] = following.split(same)
            entry, covered, children = following, covered + same, following.children
        return entry

    def keep(self, prompt: Ids, ids: Ids, parent: Entry | None, states: Tensor) -> Entry:
        """Keep the states of the last tokens of `ids`; those that are there already stay as they are.

        Args:
            prompt: the group.
            ids: tokens from the first one.
            parent: what the states go on from.
            states: [layers, 2, kv_heads, tokens, head_dim].

        Returns:
            The entry of the last token.
        """
        found = self.longest(prompt, ids)
        covered = found.covered if found is not None else 0
        if found is not None and covered == len(ids):
            return found
        missing = len(ids) - covered
        if missing > states.shape[3]:  # the group was dropped meanwhile, what the states go on from with it
            return Entry(ids[len(ids) - states.shape[3] :], parent, states)
        entry = Entry(ids[covered:], found, states[:, :, :, states.shape[3] - missing :])
        (found.children if found is not None else self._groups.setdefault(prompt, {}))[ids[covered]] = entry
        self._sizes[prompt] += entry.bytes
        self.bytes += entry.bytes
        while self.bytes > self.max_bytes and len(self._groups) > 1:
            oldest = next(iter(self._groups))
            if oldest == prompt:
                self._groups.move_to_end(prompt)
                continue
            self.forget(oldest)
        return entry

    def forget(self, prompt: Ids) -> None:
        """Drop everything of a prompt."""
        self._groups.pop(prompt, None)
        self.bytes -= self._sizes.pop(prompt, 0)


def _common(first: Ids, second: Ids) -> int:
    """Tokens that both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


class BatchStates:
    """Keys and values of a batch in one buffer, written in place: a row a sequence, each from its first token on.

    Args:
        shape: (layers, kv_heads, head_dim).
        rows: sequences that it has place for, in whole tiles.
        tokens: tokens that each has place for, in whole tiles.
        dtype: number format.
        device: where it lies.
    """

    def __init__(self, shape: tuple[int, int, int], rows: int, tokens: int, dtype: Any, device: Any) -> None:
        import torch

        layers, heads, width = shape
        rows, tokens = whole(rows), whole(tokens)
        # zeros: what was never written is masked, yet it must be finite
        self.buffer = torch.zeros((layers, 2, rows, heads, tokens, width), dtype=dtype, device=device)
        self._rows = torch.arange(rows, device=device)[:, None]
        self._positions = self._rows
        self._width = 0

    @property
    def room(self) -> tuple[int, int]:
        """Sequences, and tokens of each, that it has place for."""
        return int(self.buffer.shape[2]), int(self.buffer.shape[4])

    def grown(self, rows: int, tokens: int, kept: int) -> BatchStates:
        """A larger copy with the first `kept` rows."""
        layers, _, _, heads, held, width = self.buffer.shape
        larger = BatchStates((layers, heads, width), rows, tokens, self.buffer.dtype, self.buffer.device)
        larger.buffer[:, :, :kept, :, :held] = self.buffer[:, :, :kept]
        return larger

    def load(self, first: int, last: int, entry: Entry | None) -> None:
        """Copy a kept prefix into rows `first` to `last - 1`."""
        for begin, states in entry.chain() if entry is not None else ():
            self.buffer[:, :, first:last, :, begin : begin + states.shape[3]] = states[:, :, None]

    def move(self, to: Tensor, of: Tensor, tokens: int) -> None:
        """Copy the first `tokens` tokens of rows `of` over rows `to`."""
        self.buffer[:, :, to, :, :tokens] = self.buffer[:, :, of, :, :tokens]

    def slice(self, row: int, start: int, end: int) -> Tensor:
        """States of a row's tokens, as a copy [layers, 2, kv_heads, tokens, head_dim]."""
        return self.buffer[:, :, row, :, start:end].clone()

    def at(self, positions: Tensor) -> tuple[Any, Tensor]:
        """Make ready for a forward pass of the first rows whose tokens stand at these positions.

        Args:
            positions: [rows, q]; there must be room for the `key_width` of the highest one.

        Returns:
            The buffer as a transformers `Cache`, and the attention mask [rows, 1, q, keys] that is added to the scores:
            0 where a token looks, else the least finite number (eager and fused attention both take it).
        """
        import torch
        from transformers import Cache

        self._positions = positions
        self._width = key_width(int(positions.max()) + 1, positions.shape[1])
        hidden = torch.arange(self._width, device=positions.device) > positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.buffer.dtype, device=positions.device)
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        layer = _layer_class()
        return Cache(layers=[layer(self, i) for i in range(self.buffer.shape[0])]), mask

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values [rows, kv_heads, q, head_dim] in their place; returns all that may be looked at."""
        rows = len(self._positions)
        held_keys, held_values = self.buffer[layer, :, :rows]
        held_keys[self._rows[:rows], :, self._positions] = keys.transpose(1, 2)
        held_values[self._rows[:rows], :, self._positions] = values.transpose(1, 2)
        return held_keys[:, :, : self._width], held_values[:, :, : self._width]

    @property
    def width(self) -> int:
        """Keys that the pass made ready by `at` looks at."""
        return self._width


@cache
def _layer_class() -> Any:
    """The cache layer class; made on first use, since its base needs transformers."""
    from transformers.cache_utils import CacheLayerMixin

    class BufferLayer(CacheLayerMixin):  # type: ignore[misc]
        """One layer of `BatchStates`."""

        is_sliding = False

        def __init__(self, states: BatchStates, index: int) -> None:
            super().__init__()
            self._states = states
            self._index = index
            self.is_initialized = True

        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            """Nothing to do: the buffer is there."""

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            """Write the new keys and values in place; returns all so far."""
            return self._states.write(self._index, key_states, value_states)

        def get_mask_sizes(self, _query_length: int) -> tuple[int, int]:
            """(length, offset) of the keys."""
            return self._states.width, 0

        def get_seq_length(self) -> int:
            """Keys before this pass, of the longest row."""
            return self._states.width - 1

        def get_max_length(self) -> int:
            """Tokens that fit."""
            return self._states.room[1]

    return BufferLayer
