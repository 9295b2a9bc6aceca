"""What the supervisor holds of other processes, and what the kernel tells of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass

_END_SECONDS = 10.0
"""How long the kernel may take to end a killed process."""
_STOP_SECONDS = 1.0
_STOP_YIELDS, _STOP_POLL_SECONDS = 20, 1e-4
_NULL_DESCRIPTORS = ("0", "1", "2")


class ZygoteError(Exception):
    """The zygote is gone, or something in it is out of our control: all of it has to end."""


@dataclass(slots=True, eq=False)
class Process:
    """A process that runs or has run a program, or the zygote.

    Attributes:
        pid: in our namespace.
        handle: its pidfd; None where it ended before we had one, or the system has no such thing.
        socket: to it.
        inode: of its own end of the socket, as /proc names it.
    """

    pid: int
    handle: int | None
    socket: socket.socket
    inode: int = 0

    def signal(self, number: int) -> None:
        """Send a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            if self.handle is not None:
                signal.pidfd_send_signal(self.handle, number)
            elif not hasattr(os, "pidfd_open"):
                os.kill(self.pid, number)

    def settle(self) -> int | None:
        """Wait until it stands still after SIGSTOP; returns its pages of memory, or None if it does not."""
        deadline = time.monotonic() + _STOP_SECONDS
        yields = _STOP_YIELDS
        while time.monotonic() < deadline:
            try:
                found = status(self.pid)
            except OSError:
                return None
            if found.state in ("T", "Z"):
                return found.pages if found.state == "T" else None
            if yields:  # most stop at once
                yields -= 1
                os.sched_yield()
            else:
                time.sleep(_STOP_POLL_SECONDS)
        return None

    def children(self) -> list[int]:
        """Pids of its children.

        Raises:
            OSError: they can't be told.
        """
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def holds_nothing_open(self) -> bool:
        """Whether it has no descriptor but its socket and /dev/null: its forks would share them."""
        place = f"/proc/{self.pid}/fd"
        try:
            names = os.listdir(place)
            if len(names) != len(_NULL_DESCRIPTORS) + 1:
                return False
            links = {name: os.readlink(f"{place}/{name}") for name in names}
        except OSError:
            return False
        null = [links.pop(name, None) for name in _NULL_DESCRIPTORS]
        return null == [os.devnull] * len(null) and list(links.values()) == [f"socket:[{self.inode}]"]

    def can_be_inspected(self) -> bool:
        """Whether we may see its descriptors."""
        try:
            return bool(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return False

    def close(self) -> None:
        """Close our descriptors."""
        self.socket.close()
        if self.handle is not None:
            os.close(self.handle)


def open_handle(pid: int) -> int | None:
    """A pidfd; None where the system has none.

    Raises:
        ProcessLookupError: the process is gone.
    """
    return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None


@dataclass(frozen=True, slots=True)
class Status:
    """What the kernel tells of a process.

    Attributes:
        state: `T` stopped, `Z` ended, ...
        parent: pid of its parent.
        pages: pages of memory of its own, at most: those it has touched since its fork.
    """

    state: str
    parent: int
    pages: int


def status(pid: int) -> Status:
    """Look at a process.

    Raises:
        OSError: it is gone, or can't be looked at.
    """
    stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        fields = os.read(stat, 2000).rpartition(b")")[2].split()
    finally:
        os.close(stat)
    return Status(fields[0].decode(), int(fields[1]), min(int(fields[7]), int(fields[21])))


def await_end(handle: int) -> None:
    """Wait for the end of a killed process; close its pidfd.

    Raises:
        ZygoteError: it does not end.
    """
    gone = select.poll()
    gone.register(handle, select.POLLIN)
    ended = gone.poll(_END_SECONDS * 1000)
    os.close(handle)
    if not ended:
        raise ZygoteError("a killed process stays")


def end_children(parent: int) -> None:
    """Kill all children of a process that adopts orphans, and theirs, as far as /proc tells.

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
