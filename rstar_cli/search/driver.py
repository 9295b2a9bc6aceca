"""Many searches at once: keep the engine full while code runs and answers are graded beside it.

A search whose answers have come goes on at once; it never waits for the others. What a search asks and is told depends
on its own seed alone, so batch sizes and timing change nothing in its tree.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from rstar_cli.errors import RstarError
from rstar_cli.protocols import ExecuteRequest, Grade, Policy, SampleRequest, ScoreRequest, StepExecutor, StepScorer
from rstar_cli.search.grow import GradeRequest, MoreRequest, Question
from rstar_cli.search.mcts import Search
from rstar_cli.search.tree import Tree

KeyT = TypeVar("KeyT", bound=Hashable)
GradeMany = Callable[[list[tuple[KeyT, str | None]]], list[Grade | None]]
"""Answers of several problems, each with its problem's key, to grades; None where gold may not be seen."""


SCORE_SHARE = 0.1
"""Scoring waits until this share of the searches asks for it: a pass over few rows costs nearly that of many."""


MOST_GIVEN_UP = 4
"""Searches that may be given up while fewer have ended; beyond it the engine is at fault, not their problems."""


COLLECT_EVERY = 50_000
"""New objects between two looks of the garbage collector."""


@dataclass(slots=True)
class Flow:
    """How the time of a drive went.

    Attributes:
        seconds: wall-clock time, of all drives that share it.
        engine_seconds: of these, the policy and the PRM were at work.
        most_in_flight: searches alive at once, at most.
    """

    seconds: float = 0.0
    engine_seconds: float = 0.0
    most_in_flight: int = 0

    @property
    def idle(self) -> float:
        """Share of the time in which the engine had nothing to do, in [0, 1]."""
        return 1.0 - self.engine_seconds / self.seconds if self.seconds else 0.0


@dataclass(slots=True, eq=False)
class _Live(Generic[KeyT]):
    """A search under way: the answers to what it asked last, and how many of them are missing."""

    key: KeyT
    tree: Tree
    search: Search
    answers: list[Any] = field(default_factory=list)
    missing: int = 0
    several: bool = False


@dataclass(frozen=True, slots=True)
class _Asked(Generic[KeyT]):
    """A question of a search, and the place of its answer."""

    live: _Live[KeyT]
    place: int
    question: Any


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Have the garbage collector look seldom: trees are many small objects that live until they are written.

    At Python's own threshold (700) it walks them again and again, which took half of the search's own time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class Driver(Generic[KeyT]):
    """Runs searches to their end.

    Args:
        policy: answers sample requests, in the caller's thread.
        executor: runs code, in a thread beside it.
        grade: grades answers, in a thread beside it.
        scorer: values steps, in the caller's thread; needed where searches ask for it.
        more: whether an unsolved problem may have more rollouts.
        flow: is kept up to date.
        give_up: is told of a search that ends because the policy refuses what it asks, and why; None: that ends all.
    """

    def __init__(
        self,
        policy: Policy,
        executor: StepExecutor,
        grade: GradeMany[KeyT],
        scorer: StepScorer | None = None,
        more: Callable[[], bool] = lambda: True,
        flow: Flow | None = None,
        give_up: Callable[[KeyT, RstarError], None] | None = None,
    ) -> None:
        self.flow = flow or Flow()
        self._give_up = give_up
        self._given_up = self._ended = 0
        self._policy = policy
        self._executor = executor
        self._grade = grade
        self._scorer = scorer
        self._more = more
        self._tickets = count()
        self._sampling: dict[int, _Asked[KeyT]] = {}
        self._to_score: list[_Asked[KeyT]] = []
        self._to_execute: list[_Asked[KeyT]] = []
        self._to_grade: list[_Asked[KeyT]] = []
        self._running: dict[Future[list[Any]], list[_Asked[KeyT]]] = {}
        self._alive: dict[_Live[KeyT], None] = {}
        self._done: deque[tuple[KeyT, Tree]] = deque()

    def run(
        self,
        searches: Iterable[tuple[KeyT, Tree, Search]],
        in_flight: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[KeyT, Tree]]:
        """Run searches.

        Args:
            searches: (key, tree, the search that grows it); drawn from as places fall free.
            in_flight: searches alive at once.
            stop: asked all the while; once it says so nothing more is asked, and `left` has what is unfinished.

        Yields:
            (key, tree) in the order in which searches end.
        """
        waiting = iter(searches)
        begun = time.monotonic() - self.flow.seconds
        with _seldom_collected(), ThreadPoolExecutor(max_workers=2, thread_name_prefix="rstar-driver") as threads:
            while True:
                while len(self._alive) < in_flight and (following := next(waiting, None)) is not None:
                    live = _Live(*following)
                    self._alive[live] = None
                    self._send(live, None)
                self.flow.most_in_flight = max(self.flow.most_in_flight, len(self._alive))
                self.flow.seconds = time.monotonic() - begun
                while self._done:
                    yield self._done.popleft()
                if not self._alive or stop():
                    return
                self._start(threads)
                self._work()

    @property
    def left(self) -> list[tuple[KeyT, Tree]]:
        """What `run` left unfinished when it was stopped: trees as far as they have grown."""
        return [(live.key, live.tree) for live in self._alive]

    def _send(self, live: _Live[KeyT], answers: Any) -> None:
        """Hand a search its answers and queue what it asks next."""
        try:
            asked = live.search.send(answers)
            while isinstance(asked, MoreRequest):
                asked = live.search.send(self._more())
        except StopIteration as end:
            del self._alive[live]
            self._ended += 1
            self._done.append((live.key, end.value))
            return
        questions: tuple[Question, ...] = asked if isinstance(asked, tuple) else (asked,)
        live.several = isinstance(asked, tuple)
        live.missing = len(questions)
        live.answers = [None] * len(questions)
        for place, question in enumerate(questions):
            self._queue(_Asked(live, place, question))

    def _queue(self, asked: _Asked[KeyT]) -> None:
        question = asked.question
        if isinstance(question, SampleRequest):
            ticket = next(self._tickets)
            self._sampling[ticket] = asked
            self._policy.submit(ticket, question)
        elif isinstance(question, ScoreRequest):
            self._to_score.append(asked)
        elif isinstance(question, ExecuteRequest):
            self._to_execute.append(asked)
        else:
            self._to_grade.append(asked)

    def _answer(self, asked: _Asked[KeyT], answer: Any) -> None:
        live = asked.live
        if live not in self._alive:  # it was given up
            return
        live.answers[asked.place] = answer
        live.missing -= 1
        if not live.missing:
            self._send(live, live.answers if live.several else answer)

    def _refuse(self, live: _Live[KeyT], error: RstarError) -> None:
        """End a search whose question the policy refuses; raise the error where that is no matter of its problem."""
        if self._give_up is None:
            raise error
        if live in self._alive:
            self._given_up += 1
            if self._given_up > max(MOST_GIVEN_UP, self._ended):
                raise error
            del self._alive[live]
            live.search.close()
            self._give_up(live.key, error)

    def _answer_all(self, asked: list[_Asked[KeyT]], answers: list[Any]) -> None:
        for each, answer in zip(asked, answers, strict=True):
            self._answer(each, answer)

    def _start(self, threads: ThreadPoolExecutor) -> None:
        """Start batches of code and of grading: one of each at a time, so that the next one gathers."""
        busy = {type(asked[0].question) for asked in self._running.values()}
        if self._to_execute and ExecuteRequest not in busy:
            asked, self._to_execute = self._to_execute, []
            self._running[threads.submit(self._executor.execute, [a.question for a in asked])] = asked
        if self._to_grade and GradeRequest not in busy:
            asked, self._to_grade = self._to_grade, []
            graded = [(a.live.key, a.question.answer) for a in asked]
            self._running[threads.submit(self._grade, graded)] = asked

    def _work(self) -> None:
        """Have the engine answer something, then take what was done beside it."""
        begun = time.monotonic()
        ready = len(self._to_score) >= len(self._alive) * SCORE_SHARE or not self._sampling
        if self._scorer is not None and self._to_score and ready:
            scored, self._to_score = self._to_score, []
            values = self._scorer.score([a.question for a in scored])
            self.flow.engine_seconds += time.monotonic() - begun
            self._answer_all(scored, values)
            return
        sampled = self._policy.poll() if self._sampling else []
        self.flow.engine_seconds += time.monotonic() - begun
        for ticket, samples in sampled:
            asked = self._sampling.pop(ticket)
            if isinstance(samples, RstarError):
                self._refuse(asked.live, samples)
            else:
                self._answer(asked, samples)
        patient = not sampled and not self._to_score
        finished = wait(self._running, timeout=None if patient else 0, return_when=FIRST_COMPLETED).done
        for future in finished:
            self._answer_all(self._running.pop(future), future.result())
