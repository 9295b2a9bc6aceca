"""A Ray cluster as a stage uses it: how its machines are shared among actors, and what goes wrong with it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        shares: of each actor that there is to be.

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
        self.shares = shares([node for node in ray.nodes() if node["Alive"]], actors, gpus=gpus)
        self._started: list[Any] = []

    def start(self, share: Share, kind: type, *args: object, restarts: int = 0) -> Any:
        """Start an actor.

        Args:
            share: of the cluster.
            kind: its class, whose first argument is the folder where the command was given: an actor begins in that of
                its cluster, and paths may be relative.
            args: the others.
            restarts: how often Ray starts it again where it dies, and repeats what it had been asked.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
        if share.machine is not None:
            asked["scheduling_strategy"] = NodeAffinitySchedulingStrategy(share.machine, soft=False)
        made = self.ray.remote(**asked, max_restarts=restarts, max_task_retries=restarts)(kind)
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


@dataclass(frozen=True, slots=True)
class Share:
    """What an actor asks of a cluster: cores, GPUs (a part of one, or one), and the id of its machine; None: any."""

    cpus: float
    gpus: float = 0.0
    machine: str | None = None

    @property
    def workers(self) -> int:
        """Processes that its programs run in."""
        return max(1, int(self.cpus))


def shares(nodes: Sequence[Mapping[str, Any]], actors: int, *, gpus: bool) -> list[Share]:
    """Of each actor, so that all of them find room.

    Args:
        nodes: the machines, as `ray.nodes()` tells of them.
        actors: see `Cluster`.
        gpus: see `Cluster`.
    """
    machines = [node["Resources"] for node in nodes]
    had = int(sum(machine.get("GPU", 0) for machine in machines)) if gpus else 0
    hosts = [node for node in nodes if node["Resources"].get("CPU", 0) > 0]
    if not actors and not gpus and hosts:
        return [Share(_whole(node["Resources"]["CPU"]), machine=node["NodeID"]) for node in hosts]
    count = actors or had or 1
    gpu = 1 / math.ceil(count / had) if had else 0.0  # a part is of one GPU: the parts must be equal
    return [Share(cpus_each(machines, count, gpu), gpu)] * count


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
    held = [min(actors, int(h["GPU"]) * int(1 / gpu + 1e-6)) if gpu else math.ceil(actors / len(hosts)) for h in hosts]
    return _whole(min(host.get("CPU", 0.0) / count for host, count in zip(hosts, held, strict=True)))


def _whole(cpus: float) -> float:
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
    if address.startswith("ray://"):
        raise SetupError(
            f"{address} is for Ray's client, which does not carry what actors tell on the way",
            remedy="Start the command on a machine of the cluster, with $RAY_ADDRESS as HOST:PORT of ray start.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # not given, or a form that Ray itself resolves
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
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
