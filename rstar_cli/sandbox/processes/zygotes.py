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
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import packets
from .handles import Process, ZygoteError, await_end, end_children, open_handle, status
from .packets import HELLO, LAST, MORE, ClaimError
from .seccomp import Listener

_START_SECONDS = 120.0
_ROOT_FORK_SECONDS = 30.0
_FORK_SECONDS = 1.0
"""How long a held process, which may be hostile, may take to fork; if it was only slow its path is run again."""
_MOST_DYING = 4
"""Killed processes that may be on their way out while others start."""
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from processes.zygote import main; main()"


class StartError(Exception):
    """The zygote can't start; the text says why."""


class HostGoneError(Exception):
    """The host has ended: so shall everything else."""


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
        self._portable = not packets.SEQUENCED or "packets" in settings["without"]
        self._poll = select.poll()
        self._hangups = frozenset(hangups)
        for descriptor in hangups:
            self._poll.register(descriptor, select.POLLIN if descriptor != hangups[0] else 0)
        self._listener: Listener | None = None
        self._dying: list[int] = []
        self._known: set[int] = set()
        self._granted: int | None = None
        self.root = self._start(settings)
        if self.root.handle is not None:
            self._poll.register(self.root.handle, select.POLLIN)
        self.grants = self._listener is not None and self.root.can_be_inspected()

    def _start(self, settings: dict[str, Any]) -> Process:
        deadline = time.monotonic() + _START_SECONDS
        try:
            ours, starter = self._spawn(settings)
        except OSError as exc:
            raise StartError(f"a process can't be started: {exc}") from exc
        self._poll.register(ours, select.POLLIN)
        try:
            self._await(ours, deadline)
            packet = packets.receive(ours, deadline, descriptors=1)
        except (OSError, ClaimError, ZygoteError) as exc:
            ours.close()
            raise StartError("a process ended at its start") from exc
        self._poll.unregister(ours)
        ready: dict[str, Any] = json.loads(packet.payload) if packet.payload else {"failed": "it ended"}
        if "failed" in ready:
            ours.close()
            raise StartError(ready["failed"])
        self.layers: list[str] = ready["layers"]
        if packet.descriptors:
            self._listener = Listener(packet.descriptors[0])
            self._poll.register(self._listener.descriptor, select.POLLIN)
        pid = packet.pid or starter
        if pid != starter:  # it has left for its namespace, and we have adopted the child
            os.waitpid(starter, 0)
        return Process(pid, open_handle(pid), ours)

    def _spawn(self, settings: dict[str, Any]) -> tuple[socket.socket, int]:
        """Start a process that becomes the zygote; our end of its socket, and its pid."""
        ours, theirs = packets.pair(self._portable)
        with theirs:
            told = {**settings, "control": theirs.fileno(), "supervisor": os.getpid()}
            theirs.set_inheritable(True)
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
            arguments = [sys.executable, "-s", "-P", "-B", "-c", _BOOT, settings["package"], json.dumps(told)]
            return ours, os.posix_spawn(sys.executable, arguments, settings["environment"], file_actions=null)

    def fork(self, parent: Process, order: dict[str, Any]) -> Process | None:
        """Have a process fork a child that runs an order's steps; the parent is stopped afterwards, unless it is ours.

        Returns:
            The child; None where the parent does not do it, and has to be ended.

        Raises:
            ZygoteError: the zygote itself does not do it, or nobody knows what a parent did.
        """
        ours, theirs = packets.pair(self._portable)
        inode = os.fstat(theirs.fileno()).st_ino
        self._granted = parent.pid
        child = None
        self._poll.register(ours, select.POLLIN)
        try:
            packets.send_order(parent.socket, order, theirs.fileno())
            theirs.close()
            if parent is not self.root:
                parent.signal(signal.SIGCONT)
            child = self._greet(parent, ours, inode)
            self._known.add(child.pid)
        except (OSError, ValueError, ClaimError):
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
            self._disown(parent, tried)
        return child

    def resume(self, process: Process, order: dict[str, Any]) -> bool:
        """Have a held process run an order's steps itself; whether the order came to it."""
        try:
            packets.send_order(process.socket, order)
        except OSError:
            return False
        process.signal(signal.SIGCONT)
        return True

    def _disown(self, parent: Process, tried: bool) -> None:
        """End the child that a parent may have forked and that nobody has heard of.

        Raises:
            ZygoteError: we can't tell.
        """
        if parent is self.root:
            raise ZygoteError("the zygote does not fork")
        if not tried:
            return
        parent.settle()
        try:
            strangers = [pid for pid in parent.children() if pid not in self._known]
            for pid in strangers:
                handle = os.pidfd_open(pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                self._dying.append(handle)
        except ProcessLookupError:
            return  # there can be but one, and it has ended
        except OSError as exc:
            raise ZygoteError("there may be a process that we don't know") from exc

    def _greet(self, parent: Process, ours: socket.socket, inode: int) -> Process:
        """Wait for the child's first word, and learn from the kernel who says it."""
        seconds = _ROOT_FORK_SECONDS if parent is self.root else _FORK_SECONDS
        deadline = time.monotonic() + seconds
        self._await(ours, deadline)
        packet = packets.receive(ours, deadline)
        if packet.pid is None:  # no isolation, where the kernel does not tell: then a word is as good
            return Process(int(packet.payload[len(HELLO) :]), None, ours)
        pid = packet.pid
        if not packet.payload.startswith(HELLO) or pid == parent.pid:
            raise ClaimError("no greeting")
        handle = None
        try:
            handle = open_handle(pid)
            stranger = status(pid).parent != parent.pid
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
        if process.handle is None and not self._portable:
            deadline = 0.0  # it has ended: what it has said is there
        self._poll.register(process.socket, select.POLLIN)
        if process.handle is not None:
            self._poll.register(process.handle, select.POLLIN)
        try:
            while True:
                ended = self._await(process.socket, deadline, process.handle)
                try:
                    packet = packets.receive(process.socket, deadline)
                except ConnectionError:
                    return None
                except BlockingIOError:
                    if ended:  # with its parent stopped too soon to have closed the socket's other end
                        return None
                    continue
                data = packet.payload
                if not data and not packet.pid:
                    return None
                if packet.pid not in (process.pid, None) or not data or data[0] not in (MORE, LAST):
                    raise ClaimError("not a claim")
                claim += data[1:]
                if len(claim) > limit:
                    raise ClaimError("a claim too long")
                if data[0] == LAST:
                    return bytes(claim)
        finally:
            self._poll.unregister(process.socket)
            if process.handle is not None:
                self._poll.unregister(process.handle)

    def _await(self, sock: socket.socket, deadline: float, end: int | None = None) -> bool:
        """Wait until a socket is readable, or a process has ended; meanwhile answer whoever tries to fork.

        Returns:
            Whether the process has ended, whose pidfd is `end`.

        Raises:
            TimeoutError: the deadline passed.
            ZygoteError: the zygote has ended.
            HostGoneError: the host has ended.
        """
        wanted = sock.fileno()
        listener = self._listener.descriptor if self._listener is not None else -1
        while True:
            left = deadline - time.monotonic()
            if left <= 0 and deadline:
                raise TimeoutError
            ready = ended = False
            for descriptor, events in self._poll.poll(max(left, 0) * 1000 + 1 if deadline else 0):
                if descriptor == wanted:
                    ready = True
                elif descriptor == end:
                    ended = True
                elif descriptor == listener and self._listener is not None:
                    if events & select.POLLIN and self._listener.answer(self._granted):
                        self._granted = None
                elif descriptor in self._hangups:
                    raise HostGoneError
                else:
                    raise ZygoteError("the zygote has ended")
            if ready or ended or not deadline:
                return ended or not deadline

    def stop(self, process: Process) -> int | None:
        """Stop a process that has run its steps, to be forked later; its pages, or None where it can't be kept."""
        process.signal(signal.SIGSTOP)
        pages = process.settle()
        return pages if process.holds_nothing_open() else None

    def end(self, process: Process) -> None:
        """Kill a process, and what came of it; `reap` waits until it is no more.

        Raises:
            ZygoteError: something does not end.
        """
        process.signal(signal.SIGKILL)
        self._known.discard(process.pid)
        if "seccomp" not in self.layers:  # it may have forked
            end_children(self.root.pid)
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
        while self._dying:
            await_end(self._dying.pop())

    def close(self) -> None:
        """Kill the zygote, and with it everything that came of it."""
        if "pid" not in self.layers:  # else it takes all with it
            with contextlib.suppress(ZygoteError):
                end_children(self.root.pid)
        self.root.signal(signal.SIGKILL)
        while self._dying:
            os.close(self._dying.pop())
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.root.pid, 0)
        self.root.close()
