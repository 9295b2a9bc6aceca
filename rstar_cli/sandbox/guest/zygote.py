"""The zygote: a warm interpreter that forks a program for every request, and the guard that ends it.

Two processes, neither of which ever runs a program's code. The *guard* enters the namespaces, forks the zygote and
waits: when the host or the zygote ends, it ends the other side. The *zygote*, pid 1 of its namespace, imports what
programs need, then answers requests one by one: it holds the clock, reads the claims, and kills. Killing pid 1, or its
one `kill(-1)`, ends everything that a program may have left.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from . import isolation, program, warmup
from .wire import FrameError, FrameReader, Record, record

_SIBLINGS = 64
"""Most branches of one base."""
_END_SECONDS = 2.0
"""How long a branch's process may take to vanish after its last claim, before everything is killed."""


def main() -> None:
    """Entry point: argv holds our import path, then the settings as JSON.

    Settings: `control` (descriptor of the socket to the host), `host` (its pid), `scientific`, `timeout`, `memory_mb`,
    `output_bytes`, `paths` (directories to import from).
    """
    sys.path.remove(sys.argv[1])
    settings = json.loads(sys.argv[2])
    sys.argv[:], sys.orig_argv[:] = [""], [""]
    host = socket.socket(fileno=settings["control"])
    sys.path += [path for path in settings["paths"] if path not in sys.path]
    try:
        _start(host, settings)
    except Exception as exc:  # noqa: BLE001 - the host has no other way to learn why we can't serve
        host.sendall(record(Record.FAILED, payload=f"{type(exc).__name__}: {exc}".encode()))


def _start(host: socket.socket, settings: dict[str, Any]) -> None:
    watch = _watch(settings["host"])
    proc = isolation.open_proc()
    layers = isolation.enter_namespaces(settings["paths"])
    isolation.adopt_orphans()
    guard = os.getpid()
    zygote = os.fork()
    if zygote:
        if proc is not None:
            os.close(proc)
        _guard(zygote, host, watch)
    if watch is not None:
        os.close(watch)
    own_namespace = os.getpid() == 1
    layers += isolation.drop_privileges(namespaced=bool(layers))
    isolation.die_with_parent(0 if own_namespace else guard)
    isolation.adopt_orphans()
    sys.path[:] = [path for path in sys.path if Path(path).is_dir()]
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME="/nonexistent", LC_ALL="C.UTF-8")
    warmup.load_standard()
    if settings["scientific"]:
        warmup.load_scientific()
    prepared = program.prepare(settings["output_bytes"])
    isolation.limit_memory(proc, settings["memory_mb"] << 20)
    gc.collect()
    gc.freeze()
    host.sendall(record(Record.READY, payload=json.dumps(layers).encode()))
    Zygote(host, prepared, settings["timeout"], settings["output_bytes"]).serve()


def _watch(host_pid: int) -> int | None:
    """A descriptor that becomes readable when the host ends; None where the system has no such thing."""
    try:
        watch = os.pidfd_open(host_pid)
    except (AttributeError, OSError):
        return None
    if os.getppid() != host_pid:
        os._exit(1)
    return watch


def _guard(zygote: int, host: socket.socket, watch: int | None) -> NoReturn:
    """Wait for the end of host or zygote; leave no process behind."""
    poll = select.poll()
    poll.register(host, 0)  # reports nothing but the end of the host's side
    if watch is not None:
        poll.register(watch, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):
        poll.register(os.pidfd_open(zygote), select.POLLIN)
    while not poll.poll(1000):
        if os.waitpid(zygote, os.WNOHANG)[0]:
            os._exit(0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGKILL)
    _end_children(zygote)
    os._exit(0)


def _end_children(leader: int) -> None:
    """Kill and reap every descendant.

    Args:
        leader: a child; if it leads a process group, that is killed with it.
    """
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    else:
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(leader, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
            for orphan in _children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(orphan, signal.SIGKILL)


def _children() -> list[int]:
    """Our children, as far as /proc tells; as pid 1 of a namespace there is no need to ask."""
    if os.getpid() == 1:
        return []
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text("ascii").split()]
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a branch.

    Attributes:
        records: for the host.
        claims: how many steps answered.
        end: kind of the last record.
        clean: whether nothing is left of the branch, and its base can run another.
    """

    records: bytearray
    claims: int
    end: Record
    clean: bool


class _Base:
    """The process that runs a request's prefix, then forks its branches and runs the last one itself.

    Args:
        pid: its process id.
        replies: our ends of the branches' sockets.
        claim_bytes: longest claim taken from a program.
    """

    def __init__(self, pid: int, replies: list[socket.socket], claim_bytes: int) -> None:
        self.pid = pid
        self._replies = replies
        self._readers = deque(FrameReader(reply, claim_bytes) for reply in replies)

    @property
    def used(self) -> bool:
        """Whether it has been through a branch."""
        return len(self._readers) < len(self._replies)

    @property
    def spent(self) -> bool:
        """Whether it has been through its last branch."""
        return not self._readers

    def await_prefix(self, deadline: float) -> bool:
        """Whether the prefix ran by the deadline."""
        try:
            return self._readers[0].read(deadline) is not None
        except (TimeoutError, FrameError):
            return False

    def next_branch(self) -> FrameReader:
        """Where the claims of the next branch come."""
        return self._readers.popleft()

    def end(self) -> None:
        """End it and all that came of it."""
        for reply in self._replies:
            reply.close()
        _end_children(self.pid)


class Zygote:
    """Answers requests, in order, until the host hangs up.

    Args:
        host: socket to it.
        prepared: what the forks start with.
        timeout: seconds of wall clock for a branch, and again for the prefix.
        output_bytes: most bytes of standard output a step.
    """

    def __init__(self, host: socket.socket, prepared: program.Program, timeout: float, output_bytes: int) -> None:
        self._host = host
        self._program = prepared
        self._timeout = timeout
        self._claim_bytes = 6 * output_bytes + 20_000  # JSON writes a control character in six bytes
        self._records = bytearray()

    def serve(self) -> None:
        """Answer requests for ever."""
        requests = FrameReader(self._host, (1 << 32) - 1)
        while (payload := requests.read()) is not None:
            request = json.loads(payload)
            self._answer(request["prefix"], request["branches"])
            self._records += record(Record.DONE)
            self._host.sendall(self._records)
            self._records.clear()

    def _answer(self, prefix: list[str], branches: list[list[str]]) -> None:
        base: _Base | None = None
        index = 0
        while index < len(branches):
            if base is None:
                # without a prefix there is nothing to share: every branch is a fork of our own
                base = self._start_base(prefix, branches[index : index + (_SIBLINGS if prefix else 1)])
            if base is None:
                for lost in range(index, len(branches)):
                    self._records += record(Record.LOST, lost)
                return
            used = base.used
            outcome = self._run_branch(base, index, len(branches[index]))
            died_silently = outcome.claims == 0 and outcome.end is Record.KILLED
            if base.spent or died_silently or not outcome.clean:
                base.end()
                base = None
            if used and died_silently:
                continue  # an earlier branch may have killed the base: again, on a fresh one
            self._records += outcome.records
            index += 1

    def _start_base(self, prefix: list[str], branches: Sequence[list[str]]) -> _Base | None:
        """Fork a process and have it run the prefix; None where that fails."""
        pairs = [socket.socketpair() for _ in branches]
        pid = os.fork()
        if pid == 0:
            try:
                self._host.close()
                for ours, _ in pairs:
                    ours.close()
                program.serve([theirs for _, theirs in pairs], self._program, prefix, branches, self._timeout)
            finally:
                os._exit(1)
        for _, theirs in pairs:
            theirs.close()
        base = _Base(pid, [ours for ours, _ in pairs], self._claim_bytes)
        if not prefix or base.await_prefix(time.monotonic() + self._timeout):
            return base
        base.end()
        return None

    def _run_branch(self, base: _Base, index: int, steps: int) -> _Outcome:
        """Have the next branch run, and record what becomes of its steps."""
        reader = base.next_branch()
        started = time.monotonic()
        deadline = started + self._timeout
        records, claims, end = bytearray(), 0, Record.CLAIM
        while claims < steps and end is Record.CLAIM:
            payload = None
            try:
                payload = reader.read(deadline)
            except TimeoutError:
                end = Record.TIMEOUT
            except FrameError:
                end = Record.PROTOCOL
            now = time.monotonic()
            if payload is not None:
                claims += 1
            elif end is Record.CLAIM:
                end = Record.KILLED
            records += record(end, index, now - started, payload or b"")
            started = now
        patience = _END_SECONDS if end in (Record.CLAIM, Record.KILLED) else 0.0
        clean = not base.spent and reader.close(time.monotonic() + patience)
        if clean:
            os.kill(base.pid, signal.SIGCONT)  # the branch may have stopped it
        return _Outcome(records, claims, end, clean)
