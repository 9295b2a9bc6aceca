"""A policy, an executor and a grader that answer from a table, so that what is left to measure is the search.

Every program has `STEPS` steps and one that prints the answer. A step can be written in `CHOICES ** 2` ways, told apart
by two of its tokens; the others are certain, but for alternatives that are too unlikely to count. Every step runs.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rstar_cli.prompts import ANSWER, ANSWER_END, CODE_END, OUTPUT, STEP_END, STEP_STOPS
from rstar_cli.protocols import (
    Drawn,
    EngineInfo,
    ExecuteRequest,
    ExecutionResult,
    Grade,
    Sample,
    SampleRequest,
    Segment,
    TokenUsage,
)
from rstar_cli.records import ExecutionStatus, Verdict

STEPS = 4
CHOICES = 16
TOKENS = 24
"""Tokens of a step."""
FORKS = (0, 8)
"""Places of the tokens that tell ways apart."""
RIGHT, WRONG = "7", "8"
_FIRST_ID = 1000  # above the small numbers that Python keeps one object of: a model's ids are objects of their own
_SHARES = tuple(0.4 * 0.6**i / (1 - 0.6**CHOICES) for i in range(CHOICES))
_FORK = tuple(round(math.log(share), 4) for share in _SHARES)
_SURE = (-0.0001, *(-12.0 - i / 4 for i in range(1, CHOICES)))
_PICKS = [i for i, share in enumerate(_SHARES) for _ in range(round(256 * share))] + [0] * 8
"""A choice by byte, in the shares of the table."""
_SILENT = ExecutionResult(ExecutionStatus.OK)


def write_step(number: int, way: Sequence[int]) -> str:
    """Text of a step, tags included; `number` counts from 1, and the one after `STEPS` prints the answer."""
    name = f"{way[0]}.{way[1]}"
    if number <= STEPS:
        why = "put what is known so far into one expression and keep it"
        return f"\n# Step {number}, way {name}: {why}\nx{number} = {way[0]} * {CHOICES} + {way[1]}\n{STEP_END}"
    return f"\n# Now print the final answer, way {name}\nprint({RIGHT if sum(way) % 3 == 2 else WRONG})\n{CODE_END}"


def write_answer(printed: str) -> str:
    """Text of the answer below a program that printed this."""
    return f"{ANSWER}The answer is \\boxed{{{printed}}}.{ANSWER_END}"


class Timed(Protocol):
    """Has its CPU time counted."""

    seconds: float


@contextmanager
def timed(part: Timed) -> Iterator[None]:
    """Count CPU time as a part's; garbage is collected after it, on the search's account."""
    gc.disable()
    begun = time.thread_time()
    yield
    part.seconds += time.thread_time() - begun
    gc.enable()


class TablePolicy:
    """Candidates of one request differ in their first choice, up to `CHOICES` of them; a single one is drawn.

    Attributes:
        seconds: CPU time spent here.
        usage: tokens so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.usage = TokenUsage()
        self.info = EngineInfo("table", "table", "table", "none", CHOICES)
        self._asked: list[tuple[int, SampleRequest]] = []

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in."""
        self._asked.append((ticket, request))

    def poll(self) -> list[tuple[int, list[Sample]]]:
        """Answer all."""
        with timed(self):
            asked, self._asked = self._asked, []
            answers = [(ticket, [_sample(request, i) for i in range(request.n)]) for ticket, request in asked]
            self.usage.generated += sum(sum(sample.tokens) for _, samples in answers for sample in samples)
        return answers

    def count_tokens(self, segment: Segment) -> int:
        """As many as were sampled; else characters."""
        return len(segment.text if segment.token_ids is None else segment.token_ids)

    def forget(self, prompt: Segment) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Nothing is held."""


def _sample(request: SampleRequest, draw: int) -> Sample:
    """One continuation."""
    if OUTPUT in request.prefix[-1].text:
        printed = RIGHT if RIGHT in request.prefix[-1].text else WRONG
        return Sample((Segment(write_answer(printed), _ids(0, 0)),), (-0.0024,), "stop", (TOKENS,))
    first = len(request.prefix)  # the prompt and the steps before it
    last = first if request.stop == STEP_STOPS else STEPS + 1
    segments, logprobs, tokens, drawn = [], [], [], []
    for number in range(first, last + 1):
        bits = request.seed >> 10 * (number - first)
        way = [draw % CHOICES if request.n > 1 else _PICKS[bits & 255], _PICKS[bits >> 3 & 255]]
        begun = len(request.opening) if number == first else 0
        for i, place in enumerate(FORKS):
            if place < begun:
                way[i] = request.opening[place] - _FIRST_ID - CHOICES * place
        segments.append(Segment(write_step(number, way), _ids(*way)))
        logprobs.append(round(sum(_FORK[c] for c, place in zip(way, FORKS, strict=True) if place >= begun), 4))
        tokens.append(TOKENS - begun)
        if request.alternatives:
            drawn += [_told(place, way) for place in range(begun, TOKENS)]
    return Sample(tuple(segments), tuple(logprobs), "stop", tuple(tokens), tuple(drawn))


def _ids(first: int, second: int) -> tuple[int, ...]:
    ids = list(range(_FIRST_ID, _FIRST_ID + CHOICES * TOKENS, CHOICES))
    ids[FORKS[0]] += first
    ids[FORKS[1]] += second
    return tuple(ids)


def _told(place: int, way: Sequence[int]) -> Drawn:
    """A token and its alternatives, all of them objects of their own, as a model's are."""
    begun = _FIRST_ID + CHOICES * place
    choice = way[FORKS.index(place)] if place in FORKS else 0
    logprobs = tuple([value * 1.0 for value in (_FORK if place in FORKS else _SURE)])
    return Drawn(begun + choice, tuple(range(begun, begun + CHOICES)), logprobs)


class LineExecutor:
    """Says what a program prints by the line that prints it; every step runs.

    Attributes:
        seconds: CPU time spent here.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        """A result a step."""
        with timed(self):
            return [[[_run(code) for code in branch] for branch in request.branches] for request in requests]

    def forget(self, tree: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


def _run(code: str) -> ExecutionResult:
    printed = code.partition("print(")[2].partition(")")[0].strip("'")
    return ExecutionResult(ExecutionStatus.OK, stdout=f"{printed}\n") if printed else _SILENT


class EqualGrader:
    """An answer is right if it is gold's text."""

    def grade(self, pairs: Sequence[tuple[str, str | None]]) -> list[Grade]:
        """A verdict a (gold, prediction)."""
        return [Grade(Verdict.CORRECT if gold == said else Verdict.INCORRECT, "string") for gold, said in pairs]

    def close(self) -> None:
        """Nothing is held."""
