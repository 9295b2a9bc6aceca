"""Keys and values kept along the tree, so that a prefix goes through the model once in its life.

A prefix of n tokens is kept without its last token: a continuation begins by running that token, which gives the first
logits. So a kept prefix is never asked for more than one token of new work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Ids = tuple[int, ...]


@dataclass(slots=True)
class Entry:
    """Keys and values of a prefix from where its parent's end.

    Attributes:
        length: n, tokens of the prefix; keys and values reach to token n - 2, counted from 0.
        parent: the shorter prefix that this one goes on from; None: from the first token.
        states: [layers, 2, kv_heads, tokens, head_dim].
    """

    length: int
    parent: Entry | None
    states: Tensor

    @property
    def covered(self) -> int:
        """Tokens with keys and values."""
        return self.length - 1

    @property
    def bytes(self) -> int:
        """Memory of the states."""
        return self.states.element_size() * self.states.nelement()

    def chain(self) -> Iterator[tuple[int, Tensor]]:
        """(first token, states) from this entry up to the first one."""
        entry: Entry | None = self
        while entry is not None:
            first = entry.parent.covered if entry.parent is not None else 0
            yield first, entry.states
            entry = entry.parent


class PrefixCache:
    """Entries by token ids, grouped by prompt; the group that was not used for longest goes first when memory is full.

    Args:
        max_bytes: memory for all states. What was dropped is computed again when it is needed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._groups: OrderedDict[Ids, dict[Ids, Entry]] = OrderedDict()

    def longest(self, prompt: Ids, ids: Ids, ends: Sequence[int]) -> Entry | None:
        """The longest kept prefix of `ids` that ends at one of the segment ends."""
        group = self._groups.get(prompt)
        if group is None:
            return None
        self._groups.move_to_end(prompt)
        return next((entry for end in reversed(ends) if (entry := group.get(ids[:end])) is not None), None)

    def keep(self, prompt: Ids, ids: Ids, parent: Entry | None, states: Tensor) -> Entry:
        """Keep the states of a prefix; states that are there already stay as they are."""
        group = self._groups.setdefault(prompt, {})
        if (there := group.get(ids)) is not None:
            return there
        entry = group[ids] = Entry(len(ids), parent, states)
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
        self.bytes -= sum(entry.bytes for entry in self._groups.pop(prompt, {}).values())


class BatchStates:
    """Keys and values of a batch in one buffer, written in place; the model sees a layer at a time (`cache`).

    Args:
        shape: (layers, kv_heads, head_dim).
        entries: the kept prefix of each row; all end at `filled`, so shorter ones are padded on the left.
        filled: tokens of the longest.
        room: tokens that can be added before the buffer is made anew.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        entries: Sequence[Entry | None],
        filled: int,
        room: int,
        dtype: Any,
        device: Any,
    ) -> None:
        import torch

        layers, heads, width = shape
        self.buffer = torch.empty((layers, 2, len(entries), heads, filled + room, width), dtype=dtype, device=device)
        self.filled = filled
        self.buffer[:, :, :, :, :filled] = 0  # padding is masked, yet it must be finite
        for row, entry in enumerate(entries):
            begin = filled - (entry.covered if entry is not None else 0)
            for first, states in entry.chain() if entry is not None else ():
                start = begin + first
                self.buffer[:, :, row, :, start : start + states.shape[3]] = states

    def take(self, rows: Tensor, room: int) -> None:
        """Keep only these rows, in this order; a row may come several times."""
        layers, pair, _, heads, _, width = self.buffer.shape
        taken = self.buffer.new_empty((layers, pair, len(rows), heads, self.filled + room, width))
        taken[:, :, :, :, : self.filled] = self.buffer[:, :, :, :, : self.filled].index_select(2, rows)
        self.buffer = taken

    def make_room(self, tokens: int, more: int) -> None:
        """Have place for `tokens` more; if there is none, make place for `more`."""
        if self.filled + tokens > self.buffer.shape[4]:
            layers, pair, rows, heads, _, width = self.buffer.shape
            grown = self.buffer.new_empty((layers, pair, rows, heads, self.filled + more, width))
            grown[:, :, :, :, : self.filled] = self.buffer[:, :, :, :, : self.filled]
            self.buffer = grown

    def slice(self, row: int, start: int, end: int) -> Tensor:
        """States of a row's tokens, as a copy."""
        return self.buffer[:, :, row, :, start:end].clone()

    def cache(self) -> Any:
        """The buffer as a transformers `Cache`; a forward pass of q tokens writes at `filled`, which stays as it is."""
        from transformers import Cache

        return Cache(layers=[_layer_class()(self, i) for i in range(self.buffer.shape[0])])


def _layer_class() -> Any:
    """The cache layer class; made on first use, since its base needs transformers."""
    global _LAYER
    if _LAYER is None:
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
                layer = self._states.buffer[self._index]
                start = self._states.filled
                end = start + key_states.shape[-2]
                layer[0, :, :, start:end] = key_states
                layer[1, :, :, start:end] = value_states
                return layer[0, :, :, :end], layer[1, :, :, :end]

            def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
                """(length, offset) of the keys."""
                return self._states.filled + query_length, 0

            def get_seq_length(self) -> int:
                """Tokens so far."""
                return self._states.filled

            def get_max_length(self) -> int:
                """Tokens that fit."""
                return int(self._states.buffer.shape[4])

        _LAYER = BufferLayer
    return _LAYER


_LAYER: Any = None
