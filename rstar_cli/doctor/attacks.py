"""Small attacks on the sandbox, each judged by what it did on this side, not by what the program says."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rstar_cli.protocols import ExecutionResult
from rstar_cli.records import ExecutionStatus, Isolation
from rstar_cli.sandbox import Sandbox

TIMEOUT = 1.0
"""Seconds that a program may take here."""
MEMORY_MB = 256

_FILTERED: tuple[Isolation, ...] = ("landlock+seccomp", "full")
_LIMITED: tuple[Isolation, ...] = ("rlimits", *_FILTERED)
_GONE = (ExecutionStatus.LOST, ExecutionStatus.KILLED, ExecutionStatus.PROTOCOL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attack ended.

    Attributes:
        name: what was tried.
        held: whether the sandbox held.
        promised: whether its level promises that it does.
    """

    name: str
    held: bool
    promised: bool


@dataclass(frozen=True, slots=True)
class _Attack:
    """One of them.

    Attributes:
        name: what it tries.
        code: the program.
        held: whether the sandbox held, told from the program's result and from what it left behind.
        levels: isolation levels that promise so.
    """

    name: str
    code: str
    held: Callable[[ExecutionResult], bool]
    levels: tuple[Isolation, ...]


def attack(sandbox: Sandbox) -> list[Outcome]:
    """Try them all, one after the other; the last program is an ordinary one, that must still run.

    Args:
        sandbox: with the limits above.

    Raises:
        SetupError: no program can be run at all.
    """
    level = sandbox.isolation()
    with _attacks() as attacks:
        return [Outcome(a.name, a.held(sandbox.run(a.code)), level in a.levels) for a in attacks]


@contextmanager
def _attacks() -> Iterator[list[_Attack]]:
    """The attacks, and what they aim at: a folder that anybody may use, a file in it, a port, this process."""
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="rstar-doctor-") as folder, socket.socket() as server:
        open_folder = Path(folder, "open")
        open_folder.mkdir()
        canary = Path(folder, "canary")
        canary.write_text(secret)
        for path in (Path(folder), open_folder, canary):
            path.chmod(0o777)  # the sandbox shall hold, not the file's own permissions
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield _list_attacks(canary, secret, open_folder, server)


def _list_attacks(canary: Path, secret: str, folder: Path, server: socket.socket) -> list[_Attack]:
    address = server.getsockname()
    bounded = _LIMITED if sys.platform == "linux" else ()  # memory is not, elsewhere
    return [
        _Attack("read a file of yours", _READ.format(str(canary)), lambda r: secret not in r.stdout, _FILTERED),
        _Attack("write to a file", _WRITE.format(f"{folder}/a"), lambda _: not _written(folder), _LIMITED),
        _Attack("make a file", _MAKE.format(f"{folder}/b"), lambda _: not list(folder.iterdir()), _FILTERED),
        _Attack("see your processes", _LIST, lambda r: str(os.getpid()) not in r.stdout.split(), _FILTERED),
        _Attack("connect to a port of yours", _CONNECT.format(address), lambda _: not _reached(server), _FILTERED),
        _Attack("fork", _FORK, lambda r: "done" not in r.stdout, _LIMITED),
        _Attack("start a thread", _THREAD, lambda r: "done" not in r.stdout, _LIMITED),
        _Attack("take twice its memory", _ALLOCATE, lambda r: "done" not in r.stdout, bounded),
        _Attack("loop for ever", _LOOP, _in_time, _LIMITED),
        _Attack("kill its parent", _KILL, lambda r: r.status not in _GONE, _FILTERED),
        _Attack("stop others from running", _ORDINARY, lambda r: r.ok and r.stdout == "42\n", _LIMITED),
    ]


_READ = "print(open({!r}).read())"
_WRITE = "with open({!r}, 'w') as file:\n    file.write('written')"
_MAKE = "open({!r}, 'x')"
_LIST = "import os\nprint(*os.listdir('/proc'))"
_CONNECT = "import socket\nsocket.create_connection({!r}, timeout=0.5)"
_FORK = "import os\nif os.fork() == 0:\n    os._exit(0)\nprint('done')"
_THREAD = "import threading\nthreading.Thread(target=print).start()\nprint('done')"
_ALLOCATE = f"block = bytearray({2 * MEMORY_MB} << 20)\nprint('done')"
_LOOP = "while True:\n    pass"
_KILL = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(0.1)"
_ORDINARY = "from sympy import Integer\nprint(Integer(6)*7)"


def _written(folder: Path) -> bool:
    return any(path.stat().st_size for path in folder.iterdir())


def _reached(server: socket.socket) -> bool:
    """Whether somebody has connected."""
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _in_time(result: ExecutionResult) -> bool:
    return result.status is ExecutionStatus.TIMEOUT and result.seconds < 2 * TIMEOUT + 1
