"""Who solves problems: the models, the sandbox and the grader in this process, or in the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from rstar_cli.config import SearchConfig
from rstar_cli.interrupts import until_asked
from rstar_cli.protocols import EngineInfo
from rstar_cli.records import Problem, Row
from rstar_cli.stages.common import open_grader, open_policy, open_sandbox, open_scorer
from rstar_cli.stages.tools import Tools

RowT = TypeVar("RowT", bound=Row)
Stopped = Callable[[], bool]
Solve = Callable[[Iterable[Problem], Tools, Any, Stopped], Iterator[RowT]]
"""(problems, tools, settings, stop) -> a row a problem, as they are finished."""


@dataclass(frozen=True, slots=True)
class Models:
    """What a crew works with.

    Attributes:
        config: settings.
        policy: the model.
        prm: the PRM; None: none.
        few_shot: worked examples in each prompt.
        problems: all of them: the scripted engine must know their answers.
    """

    config: SearchConfig
    policy: str
    prm: str | None
    few_shot: int
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a crew has spent so far.

    Attributes:
        generated, prefilled: tokens.
        executed: code executions.
        idle: share of the time in which the engines had nothing to do, in [0, 1].
    """

    generated: int = 0
    prefilled: int = 0
    executed: int = 0
    idle: float = 0.0

    def since(self, before: Spent) -> dict[str, int]:
        """Tokens since then, as manifests tell them."""
        return {"generated": self.generated - before.generated, "prefilled": self.prefilled - before.prefilled}


class Crew(Protocol):
    """Solves problems; a context manager."""

    @property
    def info(self) -> EngineInfo:
        """The policy, as manifests tell of it."""

    @property
    def spent(self) -> Spent:
        """So far, by all that was asked."""

    @property
    def failed(self) -> dict[str, str]:
        """Why, by id, of problems that were given up so far: the policy refuses what they ask."""

    def rows(self, solve: Solve[RowT], problems: Sequence[Problem], stop: Stopped) -> Iterator[RowT]:
        """Solve problems.

        Args:
            solve: how.
            problems: which; no more of them are begun once a signal asks for the end.
            stop: once it says so nothing more is asked.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Here:
    """A crew in this process.

    Args:
        models: what to load.

    Attributes:
        tools: they, open.
        failed: see `Crew`.
    """

    def __init__(self, models: Models) -> None:
        self.failed: dict[str, str] = {}
        self._config, prm = models.config, models.prm
        config = self._config
        with ExitStack() as stack:
            self._sandbox = stack.enter_context(open_sandbox(config, tree=True))
            grader = stack.enter_context(open_grader(config))
            policy = stack.enter_context(closing(open_policy(config, models.policy, models.problems, models.few_shot)))
            scorer = stack.enter_context(closing(open_scorer(config, prm))) if prm is not None else None
            self.tools = Tools(policy, self._sandbox, grader, scorer, failed=self.failed)
            self._stack = stack.pop_all()

    @property
    def info(self) -> EngineInfo:
        """See `Crew`."""
        return self.tools.policy.info

    @property
    def spent(self) -> Spent:
        """See `Crew`."""
        usage = self.tools.policy.usage
        return Spent(usage.generated, usage.prefilled, self._sandbox.counts.total(), self.tools.flow.idle)

    def rows(self, solve: Solve[RowT], problems: Iterable[Problem], stop: Stopped) -> Iterator[RowT]:
        """See `Crew`."""
        return solve(until_asked(problems), self.tools, self._config, stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def open_crew(models: Models) -> Crew:
    """A crew as the settings have it.

    Raises:
        SetupError: a model, a device, a package or the cluster is not to be had.
    """
    if models.config.launcher == "ray":
        from rstar_cli.stages.ray_crew import RayCrew

        return RayCrew(models)
    return Here(models)
