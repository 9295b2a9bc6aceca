"""A crew of Ray actors, each with its own engine, sandbox and grader; on one machine or on a cluster.

Work is pulled problem by problem, so no actor waits for another, and what a problem comes to hangs on its own seed, not
on who solved it. An actor that dies loses the problems that it had in flight; they go back to the others, and a new one
takes its place. The journal stays with the driver.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Self, cast

from rstar_cli.errors import RstarError, SetupError
from rstar_cli.interrupts import asked
from rstar_cli.jsonl import dump
from rstar_cli.protocols import EngineInfo
from rstar_cli.records import Problem, Row
from rstar_cli.stages.crew import Here, Models, RowT, Solve, Spent, Stopped
from rstar_cli.stages.ray_cluster import Cluster, enter

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds after which a word is said of actors that do not answer."""

MAX_DEATHS = 3
"""Actors that may die in a row without having solved a problem."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an actor tells.

    Attributes:
        spent: by it, so far.
        failed: why, by id, of problems that it has given up since it told last.
        name: id of the problem that is finished; empty: none is, and it has no more.
        kind: of the row.
        line: the row as JSON.
    """

    spent: Spent
    failed: dict[str, str] = field(default_factory=dict)
    name: str = ""
    kind: type[Row] | None = None
    line: bytes = b""


class RstarWork:
    """The queue of problems; itself an actor, which the others pull from."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._waiting = deque(problems)
        self._taken: dict[int, dict[str, Problem]] = {}
        self._lost: set[int] = set()

    def next(self, who: int) -> Problem | None:
        """A problem for an actor; None: there is no more."""
        if not self._waiting or who in self._lost:
            return None
        problem = self._waiting.popleft()
        self._taken.setdefault(who, {})[problem.id] = problem
        return problem

    def give_back(self, who: int, done: Iterable[str]) -> int:
        """Put back what a dead actor had taken and not done; how many wait now."""
        known = set(done)
        self._lost.add(who)
        self._waiting.extendleft(p for p in self._taken.pop(who, {}).values() if p.id not in known)
        return len(self._waiting)


class RstarActor:
    """A crew in a process of its own.

    Args:
        folder: to work in.
        models: what to load.
    """

    def __init__(self, folder: Path, models: Models) -> None:
        try:
            enter(folder)
            self._here = Here(models)
        except RstarError as error:  # Ray would tell of a dead actor and a traceback
            self._failure: RstarError | None = error
        else:
            self._failure = None

    def info(self) -> EngineInfo:
        """The policy.

        Raises:
            RstarError: why there is none.
        """
        if self._failure is not None:
            raise self._failure
        return self._here.info

    def rows(self, solve: Solve[RowT], work: Any, who: int) -> Iterator[Told]:
        """What becomes of the problems, as they are finished."""
        import ray

        def problems() -> Iterator[Problem]:
            while (problem := ray.get(work.next.remote(who))) is not None:
                yield problem

        def failed() -> dict[str, str]:
            new = dict(self._here.failed)
            self._here.failed.clear()
            return new

        for row in self._here.rows(solve, problems(), lambda: False):
            yield Told(self._here.spent, failed(), cast(Any, row).problem_id, type(row), dump(row))
        yield Told(self._here.spent, failed())


class RayCrew:
    """The actors.

    Args:
        models: what each loads.

    Raises:
        SetupError: the package `ray` is absent, or the cluster is not to be had.
    """

    def __init__(self, models: Models) -> None:
        self._cluster = cluster = Cluster(models.config.actors, gpus=True)
        settings = {
            "exec_workers": models.config.exec_workers or cluster.shares[0].workers,
            "in_flight": in_flight(models.config.in_flight, len(models.problems), len(cluster.shares)),
        }
        self._models = replace(models, config=models.config.model_copy(update=settings))
        self._actors: dict[int, Any] = {}
        self._spent: dict[int, Spent] = {}
        self._failed: dict[str, str] = {}
        self._numbers = count()
        with ExitStack() as stack:
            stack.enter_context(cluster)
            for _ in cluster.shares:
                self._start()
            told = next(iter(self._actors.values())).info.remote()
            if not cluster.ray.wait([told], timeout=PATIENCE)[0]:
                logger.warning("no actor has answered yet: models load, or others hold the cluster (see ray status)")
            self._info: EngineInfo = cluster.answer(told)
            self._stack = stack.pop_all()

    @property
    def info(self) -> EngineInfo:
        """See `Crew`."""
        return self._info

    @property
    def failed(self) -> dict[str, str]:
        """See `Crew`."""
        return self._failed

    @property
    def spent(self) -> Spent:
        """See `Crew`; what a dead actor had in flight is not known."""
        told = list(self._spent.values())
        return Spent(
            sum(s.generated for s in told),
            sum(s.prefilled for s in told),
            sum(s.executed for s in told),
            sum(s.idle for s in told) / len(told) if told else 0.0,
        )

    def rows(self, solve: Solve[RowT], problems: Sequence[Problem], stop: Stopped) -> Iterator[RowT]:
        """See `Crew`."""
        ray = self._cluster.ray
        work = ray.remote(num_cpus=0)(RstarWork).remote(problems)
        while len(self._actors) < len(self._cluster.shares):  # those that died when there was nothing left to do
            self._start()
        at_work = {self._ask(who, solve, work): who for who in self._actors}
        done: set[str] = set()
        heard: set[int] = set()
        deaths = 0
        while at_work:
            if len(done) == len(problems):  # an actor may be waiting for room in the cluster still
                at_work = {asked: who for asked, who in at_work.items() if who in heard}
                if not at_work:
                    break
            (ready,), _ = ray.wait(list(at_work), num_returns=1)
            who = at_work[ready]
            try:
                told: Told = self._cluster.answer(next(ready))
            except StopIteration:
                del at_work[ready]
                continue
            except ray.exceptions.RayActorError as error:
                del at_work[ready]
                ray.kill(self._actors.pop(who))  # it may be out of reach only, and hold its share of the cluster
                deaths += 1
                if deaths > MAX_DEATHS:
                    raise SetupError(
                        f"{deaths} actors died one after another: {error}",
                        remedy="See Ray's logs; fewer --actors or a smaller --in-flight need less memory.",
                    ) from error
                if ray.get(work.give_back.remote(who, done)):
                    new = self._start()
                    at_work[self._ask(new, solve, work)] = new
                continue
            deaths = 0
            heard.add(who)
            self._spent[who] = told.spent
            self._failed |= told.failed
            if told.kind is not None and told.name not in done:
                yield cast(RowT, told.kind.model_validate_json(told.line))
            done |= {*told.failed, *([told.name] if told.name else [])}
            if stop() or asked():  # what is in flight elsewhere is dropped
                return
        ray.kill(work)

    def _start(self) -> int:
        """Start an actor; its number."""
        who = next(self._numbers)
        self._actors[who] = self._cluster.start(self._cluster.shares[0], RstarActor, self._models)
        return who

    def _ask(self, who: int, solve: Solve[Any], work: Any) -> Any:
        return self._actors[who].rows.options(num_returns="streaming").remote(solve, work, who)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def in_flight(asked: int, problems: int, actors: int) -> int:
    """Problems that an actor takes at once: at first half of its share, so that the rest goes to whoever is quicker."""
    return max(1, min(asked, math.ceil(problems / (2 * actors))))
