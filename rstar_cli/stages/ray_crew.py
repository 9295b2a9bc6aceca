"""A crew of Ray actors, each with its own engine, sandbox and grader; on one machine or on a cluster.

Work is pulled problem by problem, so no actor waits for another, and what a problem comes to hangs on its own seed, not
on who solved it. An actor that dies loses the problems that it had in flight; they go back to the others, and a new one
takes its place. The journal stays with the driver.
"""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Self, cast

from rstar_cli.errors import RstarError, SetupError
from rstar_cli.interrupts import asked
from rstar_cli.jsonl import dump
from rstar_cli.protocols import EngineInfo
from rstar_cli.records import Problem
from rstar_cli.stages.crew import Here, Models, RowT, Solve, Spent, Stopped

MAX_DEATHS = 3
"""Actors that may die in a row without having solved a problem."""


CONNECT_SECONDS = 5.0
"""In which something must answer at the cluster's address."""


class RstarWork:
    """The queue of problems; itself an actor, which the others pull from."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._waiting = deque(problems)
        self._taken: dict[int, dict[str, Problem]] = {}

    def next(self, who: int) -> Problem | None:
        """A problem for an actor; None: there is no more."""
        if not self._waiting:
            return None
        problem = self._waiting.popleft()
        self._taken.setdefault(who, {})[problem.id] = problem
        return problem

    def give_back(self, who: int, done: Iterable[str]) -> int:
        """Put back what a dead actor had taken and not done; how many wait now."""
        known = set(done)
        self._waiting.extendleft(p for p in self._taken.pop(who, {}).values() if p.id not in known)
        return len(self._waiting)


class RstarActor:
    """A crew in a process of its own.

    Args:
        models: what to load.
        folder: where the command was given: an actor begins in the folder of its cluster, and paths may be relative.
    """

    def __init__(self, models: Models, folder: Path) -> None:
        try:
            _enter(folder)
            self._here = Here(models, giving_up=False)
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

    def rows(self, solve: Solve[RowT], work: Any, who: int) -> Iterator[tuple[str, type[RowT], bytes, Spent]]:
        """(problem id, kind of row, row as JSON, what this actor has spent so far), as they are finished."""
        import ray

        def problems() -> Iterator[Problem]:
            while (problem := ray.get(work.next.remote(who))) is not None:
                yield problem

        for row in self._here.rows(solve, problems(), lambda: False):
            yield cast(Any, row).problem_id, type(row), dump(row), self._here.spent


class RayCrew:
    """The actors.

    Args:
        models: what each loads.

    Raises:
        SetupError: the package `ray` is absent, or the cluster is not to be had.
    """

    def __init__(self, models: Models) -> None:
        ray = _ray()
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            _refuse_absent(os.environ.get("RAY_ADDRESS", ""))
            try:  # the cluster of $RAY_ADDRESS or of `ray start`, else one for this command alone
                ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise SetupError(
                    f"no Ray cluster: {error}", remedy="Start one (ray start --head), or see $RAY_ADDRESS."
                ) from error
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        config = models.config
        self._count = config.actors or gpus or 1
        share = {"num_gpus": gpus / self._count if gpus < self._count else 1} if gpus else {}
        cpus = resources.get("CPU", 1.0) / self._count  # Ray takes whole ones, or a part of one
        cpus = float(int(cpus)) if cpus >= 1 else cpus
        settings = {
            "exec_workers": config.exec_workers or max(1, int(cpus)),  # the actors of a machine share its cores
            "in_flight": in_flight(config.in_flight, len(models.problems), self._count),
        }
        self._models = replace(models, config=config.model_copy(update=settings))
        self._class = ray.remote(num_cpus=cpus, max_restarts=0, **share)(RstarActor)
        self._actors: dict[int, Any] = {}
        self._spent: dict[int, Spent] = {}
        self._numbers = count()
        for _ in range(self._count):
            self._start()
        self._info: EngineInfo = self._answer(next(iter(self._actors.values())).info.remote())

    @property
    def info(self) -> EngineInfo:
        """See `Crew`."""
        return self._info

    @property
    def failed(self) -> dict[str, str]:
        """See `Crew`: an actor's errors end all."""
        return {}

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
        ray = self._ray
        work = ray.remote(num_cpus=0)(RstarWork).remote(problems)
        at_work = {self._ask(who, solve, work): who for who in self._actors}
        done: set[str] = set()
        deaths = 0
        while at_work:
            (ready,), _ = ray.wait(list(at_work), num_returns=1)
            who = at_work[ready]
            try:
                name, kind, line, spent = self._answer(next(ready))
            except StopIteration:
                del at_work[ready]
                continue
            except ray.exceptions.RayActorError as error:
                del at_work[ready], self._actors[who]
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
            self._spent[who] = spent
            if name not in done:
                done.add(name)
                yield kind.model_validate_json(line)
            if stop() or asked():  # what is in flight elsewhere is dropped
                return
        ray.kill(work)

    def _start(self) -> int:
        """Start an actor; its number."""
        who = next(self._numbers)
        self._actors[who] = self._class.remote(self._models, Path.cwd())
        return who

    def _ask(self, who: int, solve: Solve[Any], work: Any) -> Any:
        return self._actors[who].rows.options(num_returns="streaming").remote(solve, work, who)

    def _answer(self, asked: Any) -> Any:
        """What an actor answers; an error of its own is ours."""
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise SetupError(
            f"{folder} is not to be had on {socket.gethostname()}, a machine of the Ray cluster: {error.strerror}",
            remedy="The machines of a cluster need the run's folder at the same place: see to a shared file system.",
        ) from error


def in_flight(asked: int, problems: int, actors: int) -> int:
    """Problems that an actor takes at once: at first half of its share, so that the rest goes to whoever is quicker."""
    return max(1, min(asked, math.ceil(problems / (2 * actors))))


def _refuse_absent(address: str) -> None:
    """Ray waits for minutes where nothing listens at a cluster's address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # not given, or a form that Ray itself resolves
        return
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise SetupError(
            f"no Ray cluster at {address} ($RAY_ADDRESS): {error.strerror or error}",
            remedy="Start one (ray start --head), or unset the variable to have one on this machine alone.",
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SetupError("--launcher ray needs the package ray", remedy="pip install 'rstar-cli[ray]'") from error
    return ray
