"""A Ray cluster as a stage uses it: how its machines are shared among actors, and what goes wrong with it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rstar_cli.errors import SetupError

CONNECT_SECONDS = 5.0
"""In which something must answer at the cluster's address."""


class Cluster:
    """The cluster of $RAY_ADDRESS or of `ray start`, else one on this machine for this command; a context manager.

    Args:
        actors: how many; 0: one a GPU where `gpus` are wanted, else one a machine.
        gpus: whether actors want a GPU each.

    Attributes:
        ray: the package.
        actors: how many there are to be.
        cpus: cores of an actor, at least one: its programs run in so many processes.

    Raises:
        SetupError: the package `ray` is absent, or the cluster is not to be had.
    """

    def __init__(self, actors: int, *, gpus: bool) -> None:
        self.ray = ray = _ray()
        self._own = not ray.is_initialized()
        if self._own:
            _refuse_absent(os.environ.get("RAY_ADDRESS", ""))
            try:
                ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise SetupError(
                    f"no Ray cluster: {error}", remedy="Start one (ray start --head), or see $RAY_ADDRESS."
                ) from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        had = int(sum(machine.get("GPU", 0) for machine in machines)) if gpus else 0
        self.actors = actors or had or (1 if gpus else len(machines))
        gpu = min(1.0, had / self.actors)
        cpus = cpus_each(machines, self.actors, gpu)
        self.cpus = max(1, int(cpus))
        self._share = {"num_cpus": cpus, "num_gpus": gpu}
        self._started: list[Any] = []

    def start(self, kind: type, *args: object, restarts: int = 0) -> Any:
        """Start an actor.

        Args:
            kind: its class, whose first argument is the folder where the command was given: an actor begins in that of
                its cluster, and paths may be relative.
            args: the others.
            restarts: how often Ray starts it again where it dies, and repeats what it had been asked.
        """
        made = self.ray.remote(**self._share, max_restarts=restarts, max_task_retries=restarts)(kind)
        self._started.append(made.remote(Path.cwd(), *args))
        return self._started[-1]

    def answer(self, asked: Any) -> Any:
        """What an actor answers; an error of its own is ours."""
        try:
            return self.ray.get(asked)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._started:
            self.ray.kill(actor)
        if self._own:
            self.ray.shutdown()


def cpus_each(machines: Sequence[dict[str, float]], actors: int, gpu: float) -> float:
    """Cores that an actor may ask for so that all of them find room, whatever machine holds how many of them.

    Args:
        machines: what each has: `CPU`, `GPU`.
        actors: how many there are to be.
        gpu: the part of a GPU that each asks for; 0: none.

    Returns:
        Whole cores, or a part of one (Ray takes no other numbers).
    """
    hosts = [m for m in machines if (m.get("GPU", 0) >= gpu if gpu else m.get("CPU", 0) > 0)] or [{}]
    room = [min(actors, int(host["GPU"] / gpu + 1e-6)) if gpu else math.ceil(actors / len(hosts)) for host in hosts]
    cpus = min(host.get("CPU", 0.0) / held for host, held in zip(hosts, room, strict=True))
    return float(int(cpus)) if cpus >= 1 else cpus


def enter(folder: Path) -> None:
    """Go to the command's folder.

    Raises:
        SetupError: this machine has none.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise SetupError(
            f"{folder} is not to be had on {socket.gethostname()}, a machine of the Ray cluster: {error.strerror}",
            remedy="The machines of a cluster need the run's folder at the same place: see to a shared file system.",
        ) from error


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
