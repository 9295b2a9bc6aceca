"""Several rollouts of one tree at a time: their questions go out together, their answers come back together."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from rstar_cli.search.grow import Question

T = TypeVar("T")
Questions = tuple[Question, ...]
"""Asked at once; the answers are sent as a list in the same order, once all of them are there."""


def together(parts: Iterable[Generator[Question, Any, T]]) -> Generator[Questions, list[Any], list[T]]:
    """Run generators side by side.

    Each of them is begun up to its first question before the next one is taken from `parts`, so that what it sets aside
    is seen by those after it. No part waits within a batch of questions, but all parts of one batch are answered before
    any goes on: the order of what they do hangs on the tree alone, never on which answer came first.

    Args:
        parts: the generators.

    Returns:
        What each part returned, in their order.
    """
    asked: list[tuple[int, Generator[Question, Any, T], Question]] = []
    returned: dict[int, T] = {}

    def send(number: int, part: Generator[Question, Any, T], answer: Any) -> None:
        try:
            asked.append((number, part, part.send(answer)))
        except StopIteration as end:
            returned[number] = end.value

    for number, part in enumerate(parts):
        send(number, part, None)
    while asked:
        batch, asked = asked, []
        answers = yield tuple(question for _, _, question in batch)
        for (number, part, _), answer in zip(batch, answers, strict=True):
            send(number, part, answer)
    return [returned[number] for number in sorted(returned)]
