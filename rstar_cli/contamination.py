"""Problems of an evaluation set that training would see, word for word or nearly. Pure.

Near is what Qwen2.5-Math (arXiv 2409.12122, section 3.1) calls so: the texts share 13 tokens in a row, and their
longest common subsequence is more than 60 % of the longer one. The numbers must stand in both in the same order, too:
the same story with other numbers has another answer, and generated problems share their stories.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Tokens = tuple[str, ...]

GRAM = 13
"""Tokens in a row that two texts must share; of a shorter evaluation problem, all of its tokens."""
SHORTEST = 8
"""An evaluation problem of fewer tokens is met by the very same text alone."""
COMMON = 0.6
"""Share of the longer text's tokens above which the longest common subsequence makes two texts near."""

_IGNORED = re.compile(r"\\[,;:! ]|\\left\b|\\right\b|(?<=\d),(?=\d{3}\b)")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\\[a-z]+|[^\W\d_]+|[-+*/^=<>()\[\]|!%]")


class Overlap(NamedTuple):
    """A training problem that is in an evaluation set, too: their numbers in what was given, and how alike they are."""

    training: int
    evaluation: int
    kind: Literal["exact", "near"]


class Known:
    """The problems of evaluation sets, ready to look others up in.

    Args:
        texts: of the problems.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._tokens = [tokens(text) for text in texts]
        self._exact = {each: number for number, each in reversed(list(enumerate(self._tokens)))}
        self._grams: defaultdict[int, defaultdict[Tokens, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, each in enumerate(self._tokens):
            if len(each) >= SHORTEST:
                length = min(GRAM, len(each))
                for gram in set(_grams(each, length)):
                    self._grams[length][gram].append(number)

    def find(self, text: str) -> tuple[int, Literal["exact", "near"]] | None:
        """The first problem that a text is the same as, else one that it is near to; None: it is new."""
        own = tokens(text)
        if (same := self._exact.get(own)) is not None:
            return same, "exact"
        candidates = {
            number
            for length, grams in self._grams.items()
            for gram in _grams(own, length)
            for number in grams.get(gram, ())
        }
        near = next((number for number in sorted(candidates) if _is_near(own, self._tokens[number])), None)
        return (near, "near") if near is not None else None

    def overlaps(self, texts: Iterable[str]) -> list[Overlap]:
        """The training problems that are not new, in order."""
        found = ((number, self.find(text)) for number, text in enumerate(texts))
        return [Overlap(number, *there) for number, there in found if there is not None]


def tokens(text: str) -> Tokens:
    """A text as it is compared: words, numbers, commands and operators; case, spacing and punctuation left out."""
    return tuple(_TOKEN.findall(_IGNORED.sub("", text.casefold())))


def _grams(each: Tokens, length: int) -> Iterator[Tokens]:
    return (each[begin : begin + length] for begin in range(len(each) - length + 1))


def _is_near(training: Tokens, evaluation: Tokens) -> bool:
    from rapidfuzz.distance import LCSseq

    left = iter(number for number in training if number[0].isdigit())
    if not all(number in left for number in evaluation if number[0].isdigit()):  # `in` goes on from the last one found
        return False
    return LCSseq.similarity(training, evaluation) > COMMON * max(len(training), len(evaluation))
