"""The supervisor's end of a zygote: starts it, has it and its descendants fork, hears them, stops and kills them.

Every process but the zygote itself may be hostile. Nothing here waits without a deadline, trusts a process id that the
kernel did not give, or takes a descriptor from a program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .seccomp import Listener
from .wire import HELLO, LAST, MORE, PACKET_BYTES, send_order

_START_SECONDS = 120.0
_FORK_SECONDS = 5.0
"""How long a process may take to fork."""
_END_SECONDS = 10.0
"""How long the kernel may take to end a killed process."""
_MOST_DYING = 4
"""Killed processes that may be on their way out while others start."""
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from processes.zygote import main; main()"
_CREDENTIALS = struct.Struct("iII")
_NULL_DESCRIPTORS = ("0", "1", "2")


class ZygoteError(Exception):
    """The zygote is gone, or something in it is out of our control: all of it has to end."""


class StartError(Exception):
    """The zygote can't start; the text says why."""


class ClaimError(Exception):
    """A program broke the protocol."""


class HostGoneError(Exception):
    """The host has ended: so shall everything else."""


@dataclass(slots=True, eq=False)
class Process:
    """A process that runs or has run a program, or the zygote.

    Attributes:
        pid: in our namespace.
        handle: its pidfd; None where it ended before we had one.
        socket: to it.
        inode: of its own end of the socket, as /proc names it.
    """

    pid: int
    handle: int | None
    socket: socket.socket
    inode: int = 0

    def signal(self, number: int) -> None:
        """Send a signal, if it still lives."""
        if self.handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, number)

    def close(self) -> None:
        """Close our descriptors."""
        self.socket.close()
        if self.handle is not None:
            os.close(self.handle)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counts for a process.

    Attributes:
        parent: pid of its parent.
        seconds: CPU time.
        pages: pages of memory of its own, at most: those it has touched since its fork.
    """

    parent: int
    seconds: float
    pages: int


_TICKS = os.sysconf("SC_CLK_TCK")


def usage(pid: int) -> Usage:
    """Read what a process has used.

    Raises:
        OSError: it is gone, or can't be looked at.
    """
    stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        fields = os.read(stat, 2000).rpartition(b")")[2].split()
    finally:
        os.close(stat)
    return Usage(int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS, min(int(fields[7]), int(fields[21])))


class Zygote:
    """A warm interpreter in its sandbox, and what it forks.

    Args:
        settings: as `zygote.main` takes them, less those that are of this start.
        hangups: descriptors that become readable, or hang up, when the host ends.

    Attributes:
        layers: isolation layers that hold.
        grants: whether its descendants may fork too, one by one: states can be kept.

    Raises:
        StartError: it can't start.
    """

    def __init__(self, settings: dict[str, Any], hangups: Sequence[int]) -> None:
        self._poll = select.poll()
        self._hangups = frozenset(hangups)
        for descriptor in hangups:
            self._poll.register(descriptor, select.POLLIN if descriptor != hangups[0] else 0)
        self._listener: Listener | None = None
        self._dying: list[int] = []
        self._granted: int | None = None
        self.root = self._start(settings)
        if self.root.handle is not None:
            self._poll.register(self.root.handle, select.POLLIN)
        self.grants = self._listener is not None and _can_inspect(self.root)

    def _start(self, settings: dict[str, Any]) -> Process:
        ours, theirs = _pair()
        told = {**settings, "control": theirs.fileno(), "supervisor": os.getpid()}
        theirs.set_inheritable(True)
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        arguments = [sys.executable, "-s", "-P", "-B", "-c", _BOOT, settings["package"], json.dumps(told)]
        starter = os.posix_spawn(sys.executable, arguments, settings["environment"], file_actions=null, setsid=True)
        theirs.close()
        deadline = time.monotonic() + _START_SECONDS
        self._poll.register(ours, select.POLLIN)
        try:
            if os.waitpid(starter, 0)[1] == 0:
                ours.send(b"g")
            self._await(ours, deadline)
            data, ancillary, _, _ = ours.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4))
        except (OSError, TimeoutError) as exc:
            ours.close()
            raise StartError("a process ended at its start") from exc
        self._poll.unregister(ours)
        ready: dict[str, Any] = json.loads(data) if data else {"failed": "it ended"}
        if "failed" in ready:
            ours.close()
            raise StartError(ready["failed"])
        self.layers: list[str] = ready["layers"]
        pid = next(_CREDENTIALS.unpack(sent)[0] for _, kind, sent in ancillary if kind == socket.SCM_CREDENTIALS)
        for _, kind, sent in ancillary:
            if kind == socket.SCM_RIGHTS:
                self._listener = Listener(struct.unpack("i", sent)[0])
                self._poll.register(self._listener.descriptor, select.POLLIN)
        return Process(pid, os.pidfd_open(pid), ours)

    def fork(self, parent: Process, order: dict[str, Any]) -> Process | None:
        """Have a process fork a child that runs an order's steps; the parent is stopped afterwards, unless it is ours.

        Returns:
            The child; None where the parent does not do it, and is now dead.

        Raises:
            ZygoteError: nobody knows what it did.
        """
        ours, theirs = _pair()
        inode = os.fstat(theirs.fileno()).st_ino
        self._granted = parent.pid
        child = None
        self._poll.register(ours, select.POLLIN)
        try:
            send_order(parent.socket, order, theirs.fileno())
            theirs.close()
            if parent is not self.root:
                parent.signal(signal.SIGCONT)
            child = self._greet(parent, ours, inode)
        except (OSError, TimeoutError, ClaimError):
            child = None
        finally:
            theirs.close()
            tried, self._granted = self._granted is None, None
            self._poll.unregister(ours)
            if child is None:
                ours.close()
        if parent is not self.root:
            parent.signal(signal.SIGSTOP)
        if child is None:
            if tried or self._listener is None or parent is self.root:
                raise ZygoteError("a fork went wrong: there may be a process that we don't know")
            self.end(parent)
        return child

    def _greet(self, parent: Process, ours: socket.socket, inode: int) -> Process:
        """Wait for the child's first word, and learn from the kernel who says it."""
        self._await(ours, time.monotonic() + _FORK_SECONDS)
        data, pid = _receive(ours)
        if data != HELLO:
            raise ClaimError("no greeting")
        if pid == parent.pid:
            raise ClaimError("the parent greets for its child")
        handle = None
        try:
            handle = os.pidfd_open(pid)
            stranger = usage(pid).parent != parent.pid
        except OSError:  # it has ended since, and is reaped
            stranger = False
        if stranger:
            os.close(handle or 0)
            raise ClaimError("a stranger's greeting")
        return Process(pid, handle, ours, inode)

    def read(self, process: Process, deadline: float, limit: int) -> bytes | None:
        """Read a claim; None where the process is gone, or hung up.

        Args:
            process: one that runs steps.
            deadline: by `time.monotonic()`.
            limit: most bytes.

        Raises:
            TimeoutError: the deadline passed.
            ClaimError: it is too long, or not the process's own.
        """
        claim = bytearray()
        self._poll.register(process.socket, select.POLLIN)
        try:
            while True:
                self._await(process.socket, deadline)
                try:
                    data, pid = _receive(process.socket)
                except ConnectionError:
                    return None
                if pid == 0:
                    return None
                if pid != process.pid or not data or data[0] not in (MORE, LAST):
                    raise ClaimError("not a claim")
                claim += data[1:]
                if len(claim) > limit:
                    raise ClaimError("a claim too long")
                if data[0] == LAST:
                    return bytes(claim)
        finally:
            self._poll.unregister(process.socket)

    def _await(self, sock: socket.socket, deadline: float) -> None:
        """Wait until a socket is readable; meanwhile answer whoever tries to fork.

        Raises:
            TimeoutError: the deadline passed.
            ZygoteError: the zygote has ended.
            HostGoneError: the host has ended.
        """
        wanted = sock.fileno()
        listener = self._listener.descriptor if self._listener is not None else -1
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready = False
            for descriptor, events in self._poll.poll(left * 1000 + 1):
                if descriptor == wanted:
                    ready = True
                elif descriptor == listener and self._listener is not None:
                    if events & select.POLLIN and self._listener.answer(self._granted):
                        self._granted = None
                elif descriptor in self._hangups:
                    raise HostGoneError
                else:
                    raise ZygoteError("the zygote has ended")
            if ready:
                return

    def stop(self, process: Process) -> bool:
        """Stop a process that has run its steps, to be forked later.

        Returns:
            Whether it can be kept: it holds no descriptor but its socket, which its forks would share.
        """
        process.signal(signal.SIGSTOP)
        place = f"/proc/{process.pid}/fd"
        try:
            names = os.listdir(place)
            links = {name: os.readlink(f"{place}/{name}") for name in names if len(names) == len(_NULL_DESCRIPTORS) + 1}
        except OSError:
            return False
        null = [links.pop(name, None) for name in _NULL_DESCRIPTORS]
        return null == [os.devnull] * len(null) and list(links.values()) == [f"socket:[{process.inode}]"]

    def end(self, process: Process) -> None:
        """Kill a process, and what came of it; `reap` waits until it is no more."""
        process.signal(signal.SIGKILL)
        if "seccomp" not in self.layers:  # it may have forked
            _end_children(self.root.pid)
        process.socket.close()
        if process.handle is not None:
            self._dying.append(process.handle)
            if len(self._dying) > _MOST_DYING:
                self.reap()

    def reap(self) -> None:
        """Wait until all that was killed has ended.

        Raises:
            ZygoteError: something does not end.
        """
        deadline = time.monotonic() + _END_SECONDS
        while self._dying:
            handle = self._dying.pop()
            gone = select.poll()
            gone.register(handle, select.POLLIN)
            ended = gone.poll(max(deadline - time.monotonic(), 0) * 1000)
            os.close(handle)
            if not ended:
                raise ZygoteError("a killed process stays")

    def close(self) -> None:
        """Kill the zygote, and with it everything that came of it."""
        if "pid" not in self.layers:  # else it takes all with it
            with contextlib.suppress(ZygoteError):
                _end_children(self.root.pid)
        self.root.signal(signal.SIGKILL)
        while self._dying:
            os.close(self._dying.pop())
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.root.pid, 0)
        self.root.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets for packets; the first one tells who sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def _receive(sock: socket.socket) -> tuple[bytes, int]:
    """A packet and its sender's pid as the kernel has it; 0 where there is no sender left.

    There is no room for descriptors beside the pid: the kernel drops what comes with a packet.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        PACKET_BYTES + 1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_DONTWAIT
    )
    pid = 0
    for _, kind, sent in ancillary:
        if kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(sent)[0]
        elif kind == socket.SCM_RIGHTS:
            for (descriptor,) in struct.iter_unpack("i", sent[: len(sent) // 4 * 4]):
                os.close(descriptor)
    if flags & socket.MSG_TRUNC:
        raise ClaimError("a packet too long")
    return data, pid


def _end_children(parent: int) -> None:
    """Kill all children of a process that adopts orphans, and theirs.

    Raises:
        ZygoteError: they fork faster.
    """
    deadline = time.monotonic() + _END_SECONDS
    while True:
        try:
            with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
                children = file.read().split()
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ZygoteError("a program forks without end")


def _can_inspect(process: Process) -> bool:
    """Whether we may see a process's descriptors."""
    try:
        return bool(os.listdir(f"/proc/{process.pid}/fd"))
    except OSError:
        return False
