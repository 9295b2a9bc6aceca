"""Runs untrusted code: a process waits for orders, forks for one, and the child runs the order's steps.

The first process is the zygote. A child that is kept waits in its turn: it holds the state after its steps.
Once code of a program has run, nothing in the process can be relied on: it may claim what it likes about its own steps,
on its own socket; the supervisor holds the clock and the kill.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import io
import json
import os
import resource
import socket
import sys
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from . import isolation, seccomp
from .packets import ERROR_BYTES, HELLO, receive_order, send, send_claim

_RESERVE_BYTES = 4 << 20
"""Address space set free when memory runs out, so that the claim can be made."""

_DENIED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.EFBIG})
"""What the kernel answers to a process that asks for more than it may: rights, a read-only root, file size 0."""


_FIRST_DESCRIPTOR = 40
"""Sockets lie above the descriptors of files that a program opens."""

_encode = json.JSONEncoder(ensure_ascii=False).encode
_REHEARSAL = "import math\nx = sum(i * i for i in range(9))\nprint(f'{x}', math.sqrt(x))"


class _OutputLimitError(BaseException):
    """Raised in the program by a write beyond the limit; not an Exception, so that honest handlers let it pass."""


class _Output(io.RawIOBase):
    """Standard output: keeps the first `limit` bytes, refuses the rest."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._kept = bytearray()
        self.overflowed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(memoryview(data))
        room = self._limit - len(self._kept)
        self._kept += data[:room]
        if len(data) > room:
            self.overflowed = True
            raise _OutputLimitError
        return len(data)

    def take(self) -> str:
        """What was written since the last call, as text of at most `limit` UTF-8 bytes."""
        text = self._kept.decode("utf-8", "replace")
        self._kept = bytearray()
        return text.encode()[: self._limit].decode("utf-8", "ignore")


class Program:
    """A fresh `__main__` that runs steps one after the other. Making one makes it the interpreter's.

    It is made before the fork: what exists already costs a child nothing.
    """

    def __init__(self, output_bytes: int) -> None:
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = main
        self._globals = main.__dict__
        self._output = _Output(output_bytes)
        self._stdout = sys.stdout = io.TextIOWrapper(self._output, encoding="utf-8", newline="\n")
        self._reserve: bytes | None = bytes(_RESERVE_BYTES)
        self._steps = 0

    def step(self, code: str) -> tuple[str, str, str]:
        """Run one step's code; returns (status, stdout, error)."""
        self._steps += 1
        name = f"<step {self._steps}>"
        status, error = "ok", ""
        try:
            exec(compile(code, name, "exec", dont_inherit=True), self._globals)  # noqa: S102 - what it is for
            self._stdout.flush()
        except BaseException as exc:  # noqa: BLE001 - whatever a program raises is its result
            self._reserve = None
            status, error = _describe(exc, name)
        if status != "ok":
            self._flush()
        if self._output.overflowed:
            status, error = "output_limit", "OutputLimit: printed more than a step may"
        return status, self._output.take(), error

    def _flush(self) -> None:
        """Save what a failed step had printed before it failed."""
        try:
            self._stdout.flush()
        except (ValueError, OSError, MemoryError, _OutputLimitError):
            return  # closed, detached or full: there is nothing to save


def prepare(output_bytes: int) -> Program:
    """A program, made after some steps of our own: the interpreter adapts code as it runs, in pages then shared.

    Args:
        output_bytes: most bytes of standard output that a step keeps.
    """
    for _ in range(20):
        status, stdout, error = Program(output_bytes).step(_REHEARSAL)
        _claim(status, stdout, error)
    return Program(output_bytes)


def _describe(exc: BaseException, name: str) -> tuple[str, str]:
    """Status and error text of what a step raised."""
    if isinstance(exc, MemoryError):
        status = "memory"
        gc.collect()
    elif isinstance(exc, SystemExit):
        status = "exit"
    elif isinstance(exc, OSError) and exc.errno in _DENIED:
        status = "denied"
    else:
        status = "error"
    try:
        text = str(exc)
    except BaseException:  # noqa: BLE001 - the program's own __str__
        text = "<its text can't be had>"
    line = _own_line(exc, name)
    kind = type.__dict__["__name__"].__get__(type(exc))  # no property of a metaclass
    text = f"{kind}: {text}" if text else str(kind)
    if isinstance(exc, SyntaxError) and exc.filename == name:
        text = f"{kind}: {exc.msg}"  # str() of it repeats our file name
    text = text.encode("utf-8", "replace")[: ERROR_BYTES - 50].decode("utf-8", "ignore")
    return status, f"{text} (line {line})" if line else text


def _own_line(exc: BaseException, name: str) -> int | None:
    """The line of the step itself that raised or led to the exception."""
    if isinstance(exc, SyntaxError) and exc.filename == name:
        return exc.lineno
    line, trace = None, exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class Forks(Enum):
    """How a program is kept from forking."""

    GRANTED = 1
    """The supervisor grants forks one by one; states can be kept."""
    FILTERED = 2
    """A second filter in every child."""
    LIMITED = 3
    """The limit on processes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may do.

    Attributes:
        forks: how it is kept from forking.
        memory: bytes of address space.
    """

    forks: Forks
    memory: int


def serve(sock: socket.socket, program: Program, limits: Limits) -> NoReturn:
    """Obey orders for ever: fork, and the child runs the steps and is the next to wait, if it is not killed.

    An order may also be to run steps here: the state that was is gone then.

    Args:
        sock: where orders come.
        program: one that has run nothing.
        limits: of the children.
    """
    leave, fork = os._exit, ctypes.PyDLL(None).fork  # not os.fork: it calls what programs register, reseeds `random`
    sys.setrecursionlimit(sys.getrecursionlimit() + _depth())  # programs get the depth that plain Python gives
    in_namespace = os.getpid() == 1
    try:
        while (received := receive_order(sock)) is not None:
            order, descriptor = received
            if descriptor is None:
                _run(sock, program, order)
                continue
            if fork():
                os.close(descriptor)
                continue
            zygote = os.getppid()
            sock.close()
            sock = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR))
            os.close(descriptor)
            if not in_namespace:
                isolation.die_with_parent(zygote)
            _restrict(limits, order["cpu"])
            send(sock, HELLO + str(os.getpid()).encode())
            _run(sock, program, order)
    finally:
        leave(0)


def _restrict(limits: Limits, cpu: int) -> None:
    """Lower the limits of a new process; `cpu` in seconds."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    if limits.forks is Forks.FILTERED:
        seccomp.forbid_forks()
    elif limits.forks is Forks.LIMITED:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _run(sock: socket.socket, program: Program, order: dict[str, Any]) -> None:
    """Run steps up to the first that fails, with a claim for each, and one for those that only restore a state."""
    steps, replay = order["steps"], order["replay"]
    for code in steps[:replay]:
        status, _, error = program.step(code)
        if status != "ok":
            send_claim(sock, _claim(status, "", error))
            return
    if replay:
        send_claim(sock, _claim("ok", "", ""))
    for code in steps[replay:]:
        status, stdout, error = program.step(code)
        send_claim(sock, _claim(status, stdout, error))
        if status != "ok":
            return


def _claim(status: str, stdout: str, error: str) -> bytes:
    return _encode({"status": status, "stdout": stdout, "error": error}).encode("utf-8", "replace")


def _depth() -> int:
    """Frames below a step's code that a plain script does not have."""
    depth, frame = 5, sys._getframe()  # and the calls of exec, of the run's and of the step's own frames
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth
