"""Shards: a stage's problems dealt out to several processes or machines, and the names of what each writes.

Every file of a shard has it in its name (`trees.2-of-4.jsonl`, `manifest.2-of-4.json`), so that shards share no file,
not even on a network file system without locks; `rstar merge` makes them one (`stages/merge.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

ItemT = TypeVar("ItemT")

_IN_NAME = re.compile(r"\.(\d+)-of-(\d+)\.")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of `count` parts.

    Attributes:
        count: how many there are.
        index: which one, from 1.
    """

    count: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            ValueError: not such a text.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError(f"a shard looks like 1/4, up to 4/4, not {text!r}")
        return cls(int(count), int(index))

    @classmethod
    def named(cls, path: Path) -> Shard | None:
        """The shard that a file belongs to by its name; None: to none."""
        found = _IN_NAME.search(path.name)
        return cls(int(found[2]), int(found[1])) if found else None

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Its items, dealt out like cards: neighbours, which are often alike, go to different shards."""
        return islice(items, self.index - 1, None, self.count)

    def path(self, whole: Path) -> Path:
        """The shard's own file beside the whole one: `trees.2-of-4.jsonl`."""
        return whole.with_name(f"{whole.stem}.{self.index}-of-{self.count}{whole.suffix}")

    @staticmethod
    def found(whole: Path) -> dict[Shard, Path]:
        """The shards' files of a whole one that are there, in order."""
        beside = whole.parent.glob("*" + whole.suffix)
        named = {shard: path for path in beside if (shard := Shard.named(path)) is not None}
        return dict(sorted((shard, path) for shard, path in named.items() if shard.path(whole) == path))
