"""The supervisor: small, trusted, one for each core. It answers the host's requests one by one.

Two zygotes, started when first needed: a bare one, and one with numpy and sympy, whose forks cost more. A request is
answered from the deepest state on its path that is held; what is missing is run again. Where states can't be held
every branch runs its whole path in a fork of the zygote: the portable way, slower and the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from . import isolation
from .claims import PROTOCOL, read_claim
from .handles import Process, ZygoteError, open_handle
from .held import Held, State, path_keys
from .packets import ClaimError
from .wire import Stream, frame
from .zygotes import HostGoneError, StartError, Zygote

_MARGIN = 64
"""Processes and descriptors for all that is no held state."""
_TREE_TIMEOUTS = 100
"""Time that the programs of one tree may take together, in timeouts."""
_ATTEMPTS = 3
"""How often a branch is tried where its parent, or the zygote, was found dead."""

Result = tuple[str, str, str, float]
"""Status, stdout, error, seconds of wall clock."""
LOST: Result = ("lost", "", "", 0.0)


def main() -> None:
    """Entry point: argv holds our import path, then the settings as JSON.

    Settings: `control` (descriptor of the socket to the host), `host` (its pid), `timeout`, `memory_mb`,
    `output_bytes`, `states` and `held_mb` (bounds on what is held, 0: nothing), `paths`, `without`, `package`.
    """
    settings = json.loads(sys.argv[2])
    watch = open_handle(settings["host"])
    host = Stream(socket.socket(fileno=settings["control"]), watch)
    if os.getppid() != settings["host"]:
        return
    os.set_inheritable(settings["control"], False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the host that is interrupted
    isolation.adopt_orphans()
    supervisor = Supervisor(settings, [settings["control"], *([] if watch is None else [watch])])
    with contextlib.suppress(HostGoneError, BrokenPipeError, ConnectionError):
        supervisor.serve(host)
    supervisor.close()


@dataclass(frozen=True, slots=True)
class _Start:
    """Where branches start: a path in a tree.

    Attributes:
        scientific: which zygote it needs.
        tree: whose states it shares; empty: nobody's.
        prefix: the steps so far.
        shared: whether several branches start here.
        held: whether to start from what is held; else the whole path is run.
    """

    scientific: bool
    tree: str
    prefix: list[str]
    shared: bool
    held: bool = True


class Supervisor:
    """Answers requests.

    Args:
        settings: see `main`.
        hangups: descriptors that tell when the host ends.
    """

    def __init__(self, settings: dict[str, Any], hangups: list[int]) -> None:
        self._timeout: float = settings["timeout"]
        self._output_bytes: int = settings["output_bytes"]
        self._claim_bytes = 6 * self._output_bytes + 20_000  # JSON writes a control character in six bytes
        self._cpu = 3 * ceil(self._timeout) + 2  # behind our clock: what a state has run, a replay, a branch
        self._hangups = hangups
        states = min(settings["states"], _raise_descriptors() // 2 - _MARGIN)
        self._keeps = settings["states"] > 0
        self._held = Held(max(states, 2), (settings["held_mb"] << 20) // resource.getpagesize())
        self._told = {
            "package": settings["package"],
            "paths": settings["paths"],
            "without": settings["without"],
            "memory_mb": settings["memory_mb"],
            "output_bytes": self._output_bytes,
            "environment": dict(os.environ),
            "processes": max(states, 2) + _MARGIN,
        }
        self._zygotes: dict[bool, Zygote] = {}

    def serve(self, host: Stream) -> None:
        """Answer requests until the host hangs up."""
        host.socket.sendall(frame({"started": True}))
        while (request := host.read()) is not None:
            if "forget" in request:
                self._forget(request["forget"])
                continue
            try:
                answer = self._answer(request)
            except StartError as exc:
                host.socket.sendall(frame({"failed": str(exc)}))
                return
            if not host.pending():  # else what was killed ends while the next programs run
                self._reap()
            host.socket.sendall(frame(answer))

    def close(self) -> None:
        """End every process."""
        for zygote in self._zygotes.values():
            zygote.close()

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        branches = asked["branches"]
        start = _Start(asked["scientific"], asked["tree"], asked["prefix"], shared=len(branches) > 1)
        results: list[list[Result]] = []
        for branch in branches:
            found = self._branch(start, branch)
            results.append(found if found is not None else [LOST])
            if found == [LOST]:  # the prefix does not run: neither will it for the other branches
                results += [[LOST]] * (len(branches) - len(results))
                break
        return {"results": results, "layers": self._zygote(start.scientific).layers}

    def _branch(self, start: _Start, branch: list[str]) -> list[Result] | None:
        """Run a branch, if need be again.

        Returns:
            Its steps' results up to and with the first failure; `[LOST]` where the prefix fails; None where there is
            no running it: it ends its zygote.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._try_branch(self._zygote(start.scientific), start, branch)
            except _DeadParentError:
                start = replace(start, held=False)
            except ZygoteError:  # nobody said whose: what is held may be either's
                self._bury_all()
        return None

    def _try_branch(self, zygote: Zygote, start: _Start, branch: list[str]) -> list[Result]:
        prefix, tree = start.prefix, start.tree
        if not branch:
            return []
        if not (self._keeps and zygote.grants and tree):
            return self._run(zygote, None, prefix, branch)
        if self._held.account(tree).seconds > _TREE_TIMEOUTS * self._timeout:
            return [("timeout", "", "", 0.0)]
        if not start.held:
            return self._run(zygote, None, prefix, branch, (b"", tree))
        keys = path_keys(str(start.scientific), tree, prefix + branch)
        depth, state = self._held.nearest(keys[: len(prefix) + 1])
        if depth < len(prefix) and start.shared:
            # hold the prefix's own state, for all branches; for one branch alone a fork costs more than it saves
            if self._run(zygote, state, prefix[depth:], [], keep=(keys[len(prefix)], tree)):
                return [LOST]
            depth, state = self._held.nearest(keys[: len(prefix) + 1])
        # of a chain of steps no state is held: it ran to its end, or will be gone through again from a step within
        keep = (keys[-1] if len(branch) == 1 else b"", tree)
        if state is not None and not start.shared and self._held.is_candidate(state) and state.seconds < self._timeout:
            return self._go_on(zygote, state, prefix[depth:], branch, keep)
        return self._run(zygote, state, prefix[depth:], branch, keep)

    def _go_on(
        self, zygote: Zygote, state: State, replay: list[str], steps: list[str], keep: tuple[bytes, str]
    ) -> list[Result]:
        """Have a held process itself replay steps and run others: its only child so far costs no fork.

        The state is gone then. A search forks one that it draws several candidates from; if this one comes to be needed
        again, its path is run again. Arguments, results and errors are those of `_run`.
        """
        self._held.take(state)
        order = {"steps": replay + steps, "replay": len(replay), "cpu": self._cpu}
        if not zygote.resume(state.process, order):
            zygote.end(state.process)
            raise _DeadParentError
        results = self._hear(zygote, state.process, state.parent, len(replay), len(steps), keep, state.seconds)
        self._held.make_room(state.tree)
        return results

    def _run(
        self,
        zygote: Zygote,
        state: State | None,
        replay: list[str],
        steps: list[str],
        keep: tuple[bytes, str] = (b"", ""),
    ) -> list[Result]:
        """Fork a process from a state (None: the zygote itself) and have it replay steps, then run others.

        Args:
            zygote: what it descends from.
            state: what is forked.
            replay: steps that restore a state; heard of only as a whole.
            steps: new steps.
            keep: key and tree of the state that it comes to: held where there is a key; the tree is charged.

        Returns:
            The new steps' results up to and with the first failure; `[LOST]` where the replay failed.

        Raises:
            _DeadParentError: there is no forking from this state.
            ZygoteError: the zygote has to be given up.
        """
        order = {"steps": replay + steps, "replay": len(replay), "cpu": self._cpu}
        begun = time.monotonic()
        process = zygote.fork(state.process if state is not None else zygote.root, order)
        if keep[1]:  # by our clock: while one of a tree's processes runs, nothing else of ours does
            self._held.account(keep[1]).seconds += time.monotonic() - begun
        if process is None:
            if state is not None:
                self._held.drop(state)
            raise _DeadParentError
        results = self._hear(zygote, process, state, len(replay), len(steps), keep)
        if state is not None and (pages := state.process.settle()) is not None:
            self._held.forked(state, pages)
        elif state is not None:
            self._held.drop(state)
        if keep[1]:
            self._held.make_room(keep[1])
        return results

    def _hear(
        self,
        zygote: Zygote,
        process: Process,
        parent: State | None,
        replay: int,
        steps: int,
        keep: tuple[bytes, str],
        seconds: float = 0.0,
    ) -> list[Result]:
        """Hear what a process claims, charge its tree, and hold it or end it; `parent` is the state it comes from."""
        key, tree = keep
        begun = time.monotonic()
        try:
            results = self._claims(zygote, process, replay=bool(replay), steps=steps)
        except ZygoteError:
            process.close()
            raise
        took = time.monotonic() - begun
        if tree:
            self._held.account(tree).seconds += took
        ran = all(result[0] == "ok" for result in results)
        if key and ran and (pages := zygote.stop(process)) is not None:
            self._held.add(State(key, tree, zygote, process, parent, pages, seconds + took))
        else:
            zygote.end(process)
        if replay and results[0][0] != "ok":
            return [LOST]
        return results[1:] if replay else results

    def _claims(self, zygote: Zygote, process: Process, *, replay: bool, steps: int) -> list[Result]:
        """Hear a process: what it claims of its replay as a whole, then of each step, up to the first failure."""
        results: list[Result] = []
        started = time.monotonic()
        deadline = started + self._timeout
        for i in range(replay + steps):
            if i == 1 and replay:
                deadline = started + self._timeout
            try:
                payload = zygote.read(process, deadline, self._claim_bytes)
                claim = ("killed", "", "") if payload is None else read_claim(payload, self._output_bytes)
            except TimeoutError:
                claim = ("timeout", "", "")
            except ClaimError:
                claim = PROTOCOL
            now = time.monotonic()
            results.append((*claim, now - started))
            started = now
            if claim[0] != "ok":
                break
        return results

    def _zygote(self, scientific: bool) -> Zygote:
        if scientific not in self._zygotes:
            identity = 2 * os.getpid() + scientific
            told = {**self._told, "scientific": scientific, "identity": identity}
            self._zygotes[scientific] = Zygote(told, self._hangups)
        return self._zygotes[scientific]

    def _forget(self, tree: str) -> None:
        try:
            self._held.forget(tree)
        except ZygoteError:
            self._bury_all()

    def _reap(self) -> None:
        try:
            for zygote in self._zygotes.values():
                zygote.reap()
        except ZygoteError:
            self._bury_all()

    def _bury_all(self) -> None:
        """End the zygotes, one of which is gone or out of control, and with them all that came of them."""
        for zygote in self._zygotes.values():
            zygote.close()
            self._held.bury(zygote)
        self._zygotes.clear()


class _DeadParentError(Exception):
    """A held process does not fork: it has died, or does not obey."""


def _raise_descriptors() -> int:
    """Raise our limit on descriptors as far as we may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft
