"""The host's end of one supervisor: starts it, feeds it requests, reads its answers. Non-blocking."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from rstar_cli.errors import SetupError
from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.records import ExecutionStatus
from rstar_cli.sandbox.processes.wire import frame, take_frames

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from processes.supervisor import main; main()"
_LIBRARIES = ("numpy", "sympy", "mpmath", "scipy")
_SCIENTIFIC = re.compile(rf"(?:^|[;:])[ \t]*(?:import|from)\b[^#\n]*\b(?:{'|'.join(_LIBRARIES)})\b", re.MULTILINE)
_START_SECONDS = 120.0
_SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What every supervisor is told.

    Attributes:
        timeout: seconds of wall clock for a branch.
        memory_mb: MiB that a program may map.
        output_bytes: most bytes of output of a step.
        states: most paused processes; 0: none.
        held_mb: MiB that they may hold together.
        without: isolation layers to leave out.
    """

    timeout: float
    memory_mb: int
    output_bytes: int
    states: int
    held_mb: int
    without: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way.

    Attributes:
        tree: digest of the request's tree.
        scientific: whether its code imports the scientific libraries.
        results: as `StepExecutor.execute` returns them; None until it is done.
        attempts: supervisors that ended while they worked on it.
    """

    request: ExecuteRequest
    tree: str = field(init=False)
    scientific: bool = field(init=False)
    results: list[list[ExecutionResult]] | None = None
    attempts: int = 0

    def __post_init__(self) -> None:
        self.tree = tree_key(self.request.tree) if self.request.tree else ""
        steps = self.request.prefix + sum(self.request.branches, ())
        self.scientific = any(_SCIENTIFIC.search(code) for code in steps)

    def lose(self) -> None:
        """Give up: every branch is `lost`."""
        self.results = [[ExecutionResult(ExecutionStatus.LOST)] if branch else [] for branch in self.request.branches]


def tree_key(tree: str) -> str:
    """A short name of a tree."""
    return hashlib.blake2b(tree.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Worker:
    """One supervisor, and the requests it has been given.

    Args:
        settings: limits of programs.

    Attributes:
        jobs: requests given and not answered, in order; the supervisor works on the first.
        started: whether the supervisor has.
        layers: isolation layers that hold, once it has answered.
    """

    def __init__(self, settings: Settings) -> None:
        self.jobs: deque[Job] = deque()
        self.started = False
        self.layers: tuple[str, ...] | None = None
        self._settings = settings
        self._outbox = bytearray()
        self._inbox = bytearray()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        package = str(Path(__file__).parent)
        told = asdict(settings) | {
            "control": theirs.fileno(),
            "host": os.getpid(),
            "package": package,
            "paths": _library_paths(),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", "-c", _BOOT, package, json.dumps(told)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as exc:
            self.socket.close()
            raise SetupError(f"can't start the sandbox: {exc}", remedy="check memory and process limits") from exc
        finally:
            theirs.close()
        self._deadline = time.monotonic() + _START_SECONDS

    @property
    def wants_to_write(self) -> bool:
        """Whether requests wait to be sent."""
        return bool(self._outbox)

    @property
    def overdue(self) -> bool:
        """Whether the supervisor has been silent for longer than its own clock allows: it is stuck."""
        return bool(self.jobs) and time.monotonic() > self._deadline

    def give(self, job: Job) -> None:
        """Append a request."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._start_clock()
        self._send(
            {
                "tree": job.tree,
                "scientific": job.scientific,
                "prefix": job.request.prefix,
                "branches": job.request.branches,
            }
        )

    def forget(self, tree: str) -> None:
        """Have the supervisor drop what it holds of a tree, after what it was given so far."""
        self._send({"forget": tree})

    def _send(self, message: dict[str, object]) -> None:
        self._outbox += frame(message)
        self.write()

    def write(self) -> None:
        """Send what the socket takes."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # a zygote that is gone shows in read()
            while self._outbox:
                sent = self.socket.send(memoryview(self._outbox)[: 1 << 20])
                del self._outbox[:sent]

    def read(self) -> list[Job] | None:
        """Take what has come; returns the jobs that it finished, or None where the supervisor is gone.

        Raises:
            SetupError: it says that no program can be run.
        """
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            return None
        self._inbox += data
        finished = []
        for payload in take_frames(self._inbox):
            answer = orjson.loads(payload)
            if "started" in answer:
                self.started = True
                continue
            if "failed" in answer:
                raise SetupError(
                    f"a sandbox process can't start: {answer['failed']}",
                    remedy="see what `rstar doctor` says of the sandbox; check the limits on memory and processes",
                )
            self.layers = tuple(answer["layers"])
            job = self.jobs.popleft()
            job.results = [
                [ExecutionResult(ExecutionStatus(status), *rest) for status, *rest in branch]
                for branch in answer["results"]
            ]
            finished.append(job)
            self._start_clock()
        return finished

    def _start_clock(self) -> None:
        """Give the first job the time that the supervisor may need for it, replays and a zygote's start included."""
        if self.jobs:
            branches = len(self.jobs[0].request.branches)
            seconds = 3 * (branches + 1) * (2 * self._settings.timeout + _SLACK_SECONDS)
            self._deadline = time.monotonic() + _START_SECONDS + seconds

    def close(self) -> None:
        """End the supervisor and all its programs."""
        self.socket.close()  # it sees that and ends everything
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()  # takes its zygotes with it
            self._process.wait()


def _environment() -> dict[str, str]:
    """The environment of all of it: nothing of ours but what the dynamic linker needs to start Python."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if "LD_LIBRARY_PATH" in os.environ:
        env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return env


def _library_paths() -> list[str]:
    """Where we find the scientific libraries: the zygote gets no PYTHONPATH."""
    specs = [importlib.util.find_spec(name) for name in _LIBRARIES]
    return sorted({str(Path(spec.origin).parent.parent) for spec in specs if spec is not None and spec.origin})


def spare_memory_mb() -> int:
    """MiB of memory that this machine has to spare; a guess where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 4096
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable"))
