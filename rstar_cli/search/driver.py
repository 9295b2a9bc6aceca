"""Many searches at once: keep the engine full while code runs and answers are graded beside it.

A search whose answer has come goes on at once; it never waits for the others. What a search asks and is told depends on
its own seed alone, so batch sizes and timing change nothing in its tree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from rstar_cli.protocols import ExecuteRequest, Grade, Policy, SampleRequest, ScoreRequest, StepExecutor, StepScorer
from rstar_cli.search.grow import GradeRequest
from rstar_cli.search.mcts import Search
from rstar_cli.search.tree import Tree

KeyT = TypeVar("KeyT", bound=Hashable)
GradeMany = Callable[[list[tuple[KeyT, str | None]]], list[Grade | None]]
"""Answers of several problems, each with its problem's key, to grades; None where gold may not be seen."""


SCORE_SHARE = 0.1
"""Scoring waits until this share of the searches asks for it: a pass over few rows costs nearly that of many."""


@dataclass(slots=True)
class _Live(Generic[KeyT]):
    key: KeyT
    search: Search


def drive(
    searches: Iterable[tuple[KeyT, Search]],
    *,
    policy: Policy,
    executor: StepExecutor,
    grade: GradeMany[KeyT],
    in_flight: int,
    scorer: StepScorer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[KeyT, Tree]]:
    """Run searches to their end.

    Args:
        searches: (key, search); drawn from as places fall free.
        policy: answers sample requests, in this thread.
        executor: runs code, in a thread beside it.
        grade: grades answers, in a thread beside it.
        in_flight: searches alive at once.
        scorer: values steps, in this thread; needed where searches ask for it.
        stop: asked all the while; once it says so, what is in flight is dropped and nothing more is asked.

    Yields:
        (key, tree) in the order in which searches end.
    """
    waiting = iter(searches)
    sampling: dict[int, _Live[KeyT]] = {}
    tickets = count()
    to_score: list[tuple[_Live[KeyT], ScoreRequest]] = []
    to_execute: list[tuple[_Live[KeyT], ExecuteRequest]] = []
    to_grade: list[tuple[_Live[KeyT], GradeRequest]] = []
    done: deque[tuple[KeyT, Tree]] = deque()
    alive = 0

    def step(live: _Live[KeyT], answer: Any) -> None:
        """Hand a search its answer and queue what it asks next."""
        nonlocal alive
        try:
            question = live.search.send(answer)
        except StopIteration as end:
            alive -= 1
            done.append((live.key, end.value))
            return
        if isinstance(question, SampleRequest):
            ticket = next(tickets)
            sampling[ticket] = live
            policy.submit(ticket, question)
        elif isinstance(question, ScoreRequest):
            to_score.append((live, question))
        elif isinstance(question, ExecuteRequest):
            to_execute.append((live, question))
        else:
            to_grade.append((live, question))

    def answer_all(asked: list[tuple[_Live[KeyT], Any]], answers: list[Any]) -> None:
        for (live, _), answer in zip(asked, answers, strict=True):
            step(live, answer)

    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="rstar-driver") as threads:
        running: dict[Future[list[Any]], list[tuple[_Live[KeyT], Any]]] = {}
        while True:
            while alive < in_flight and (next_search := next(waiting, None)) is not None:
                alive += 1
                step(_Live(*next_search), None)
            while done:
                yield done.popleft()
            if not alive or stop():
                return
            if to_execute and not _busy(running, ExecuteRequest):
                asked, to_execute = to_execute, []
                running[threads.submit(executor.execute, [q for _, q in asked])] = asked
            if to_grade and not _busy(running, GradeRequest):
                graded, to_grade = to_grade, []
                running[threads.submit(grade, [(live.key, q.answer) for live, q in graded])] = graded
            if scorer is not None and to_score and (len(to_score) >= alive * SCORE_SHARE or not sampling):
                scored, to_score = to_score, []
                answer_all(scored, scorer.score([q for _, q in scored]))
                continue
            sampled = policy.poll()
            for ticket, samples in sampled:
                step(sampling.pop(ticket), samples)
            finished = wait(running, timeout=0 if sampled or to_score else None, return_when=FIRST_COMPLETED).done
            for future in finished:
                answer_all(running.pop(future), future.result())


def _busy(running: dict[Future[list[Any]], list[tuple[Any, Any]]], kind: type) -> bool:
    """Whether a batch of this kind runs: one at a time, so that the next one gathers."""
    return any(isinstance(asked[0][1], kind) for asked in running.values())
