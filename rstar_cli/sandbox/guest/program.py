"""Runs untrusted code: everything here happens in a process that a zygote forked for one request, and dies with it.

Once code of a program has run, nothing in the process can be relied on. It may claim what it likes about its own steps,
on its own socket; the zygote holds the clock and the kill.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import resource
import socket
import sys
import types
from collections.abc import Sequence
from math import ceil
from typing import Any, NoReturn

from .wire import ERROR_BYTES, frame

_RESERVE_BYTES = 4 << 20
"""Address space set free when memory runs out, so that the claim can be made."""

_DENIED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.EFBIG})
"""What the kernel answers to a process that asks for more than it may: rights, a read-only root, file size 0."""


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
        frame(_encode({"status": status, "stdout": stdout, "error": error}).encode("utf-8", "replace"))
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
    kind = type.__getattribute__(type(exc), "__name__")
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


def serve(
    replies: Sequence[socket.socket],
    program: Program,
    prefix: Sequence[str],
    branches: Sequence[Sequence[str]],
    timeout: float,
) -> NoReturn:
    """Be the program of one request: run the prefix, then every branch in a fork of that state, the last one here.

    Args:
        replies: a socket to the zygote for each branch; no other descriptor beyond 0 to 2 is open. Where there is a
            prefix, an empty frame on the first says that it ran.
        program: one that has run nothing.
        prefix: code of the common steps.
        branches: code of each branch's steps, at least one branch.
        timeout: seconds of wall clock for prefix and branch each.
    """
    leave = os._exit
    try:
        forks = _restrict(timeout)
        sys.setrecursionlimit(sys.getrecursionlimit() + _depth())  # programs get the depth that plain Python gives
        for code in prefix:
            if program.step(code)[0] != "ok":
                leave(0)
        if prefix:
            replies[0].sendall(frame(b""))
        for i, reply in enumerate(replies[:-1]):
            resource.setrlimit(resource.RLIMIT_NPROC, (forks, forks))
            child = os.fork()
            if child == 0:
                for other in replies[i + 1 :]:
                    other.close()  # before the branch's code runs: it answers for itself alone
                _branch(program, reply, branches[i])
                leave(0)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, forks))
            reply.close()
            os.waitpid(child, 0)
        _branch(program, replies[-1], branches[-1])
    finally:
        leave(0)


def _depth() -> int:
    """Frames below a step's code that a plain script does not have."""
    depth, frame_ = 3, sys._getframe()  # and the calls of exec and of the step's own frame, in C
    while frame_.f_back is not None:
        depth, frame_ = depth + 1, frame_.f_back
    return depth


def _branch(program: Program, reply: socket.socket, steps: Sequence[str]) -> None:
    """Run a branch's steps, with one claim each, up to the first that fails."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    for code in steps:
        status, stdout, error = program.step(code)
        claim = {"status": status, "stdout": stdout, "error": error}
        reply.sendall(frame(_encode(claim).encode("utf-8", "replace")))
        if status != "ok":
            return


def _restrict(timeout: float) -> int:
    """Lower our limits; returns the number of processes that we may raise our own limit to again."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    seconds = 2 * ceil(timeout) + 2  # behind the zygote's clock, for prefix and branch
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    forks = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (0, forks))
    return forks
