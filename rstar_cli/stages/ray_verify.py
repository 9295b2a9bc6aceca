"""Verification by the actors of a Ray cluster, a sandbox and a grader each; on one machine or on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from rstar_cli.config import VerifyConfig
from rstar_cli.errors import RstarError, SetupError
from rstar_cli.records import SolutionRow, Tree
from rstar_cli.stages.common import open_grader, open_sandbox
from rstar_cli.stages.ray_cluster import Cluster, enter
from rstar_cli.stages.verify import CHUNK, verified

RESTARTS = 3
"""Times that Ray starts a dead actor again, and repeats the trees that it had."""

AHEAD = 2
"""Chunks of trees that an actor is given: one to work on, one that waits."""


class RstarVerifier:
    """A sandbox and a grader in a process of their own.

    Args:
        folder: to work in.
        config: settings.
    """

    def __init__(self, folder: Path, config: VerifyConfig) -> None:
        self._failure: RstarError | None = None
        try:
            enter(folder)
            with ExitStack() as stack:
                self._sandbox = stack.enter_context(open_sandbox(config))
                self._grader = stack.enter_context(open_grader(config))
                self._stack = stack.pop_all()
        except RstarError as error:  # Ray would tell of a dead actor and a traceback
            self._failure = error

    def verified(self, chunk: list[Tree], gold: dict[str, str]) -> list[tuple[Tree, list[SolutionRow]]]:
        """See `verify.verified`."""
        if self._failure is not None:
            raise self._failure
        return list(verified(chunk, gold, self._sandbox, self._grader))


def verified_by_ray(
    trees: Iterable[Tree], gold: dict[str, str], config: VerifyConfig
) -> Iterator[tuple[Tree, list[SolutionRow]]]:
    """Each tree with its finished trajectories, run again and graded, as they are done.

    Raises:
        DataError: a tree of a problem that is not in the round's set.
        SetupError: the package `ray` is absent, the cluster is not to be had, or its actors die one after another.
    """
    waiting = iter(trees)
    under_way: dict[Any, Any] = {}
    with Cluster(config.actors, gpus=False) as cluster:

        def ask(actor: Any) -> None:
            if chunk := list(islice(waiting, CHUNK)):
                own = {tree.problem_id: gold[tree.problem_id] for tree in chunk if tree.problem_id in gold}
                under_way[actor.verified.remote(chunk, own)] = actor

        actors = []
        for share in cluster.shares:
            settings = config.model_copy(update={"exec_workers": config.exec_workers or share.workers})
            actors.append(cluster.start(share, RstarVerifier, settings, restarts=RESTARTS))
        for _ in range(AHEAD):
            for actor in actors:
                ask(actor)
        while under_way:
            (ready,), _ = cluster.ray.wait(list(under_way), num_returns=1)
            actor = under_way.pop(ready)
            try:
                found = cluster.answer(ready)
            except cluster.ray.exceptions.RayActorError as error:
                raise SetupError(
                    f"an actor is lost, and was not to be started again: {error}",
                    remedy="See Ray's logs; fewer --actors need less memory.",
                ) from error
            ask(actor)
            yield from found
