"""The host's end of one zygote: starts it, feeds it requests, reads its records. Non-blocking; never runs a program."""

from __future__ import annotations

import contextlib
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
from rstar_cli.sandbox.guest.wire import ERROR_BYTES, RECORD, Record, frame

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from guest.zygote import main; main()"
_LIBRARIES = ("numpy", "sympy", "mpmath", "scipy")
_SCIENTIFIC = re.compile(rf"(?:^|[;:])[ \t]*(?:import|from)\b[^#\n]*\b(?:{'|'.join(_LIBRARIES)})\b", re.MULTILINE)
_START_SECONDS = 120.0
_SLACK_SECONDS = 30.0
_OUTCOMES = {
    Record.TIMEOUT: ExecutionStatus.TIMEOUT,
    Record.KILLED: ExecutionStatus.KILLED,
    Record.PROTOCOL: ExecutionStatus.PROTOCOL,
    Record.LOST: ExecutionStatus.LOST,
}
_CLAIMABLE = frozenset({"ok", "error", "memory", "denied", "exit", "output_limit"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What every zygote is told: seconds for a branch, MiB for a program, bytes of output for a step."""

    timeout: float
    memory_mb: int
    output_bytes: int


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way.

    Attributes:
        scientific: whether its code imports the scientific libraries.
        results: as `StepExecutor.execute` returns them.
        attempts: zygotes that ended while they ran it.
    """

    request: ExecuteRequest
    scientific: bool = field(init=False)
    results: list[list[ExecutionResult]] = field(init=False)
    attempts: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        steps = self.request.prefix + sum(self.request.branches, ())
        self.scientific = any(_SCIENTIFIC.search(code) for code in steps)
        self.restart()

    def restart(self) -> None:
        """Forget partial results."""
        self.results = [[] for _ in self.request.branches]

    def add(self, branch: int, result: ExecutionResult) -> None:
        """Take a step's result; nothing that comes after a failure counts."""
        if not self._ended(branch):
            self.results[branch].append(result)

    def finish(self) -> None:
        """End the job; branches that are not at their end become `lost`."""
        for branch in range(len(self.results)):
            self.add(branch, ExecutionResult(ExecutionStatus.LOST))
        self.done = True

    def _ended(self, branch: int) -> bool:
        results = self.results[branch]
        return len(results) == len(self.request.branches[branch]) or bool(results and not results[-1].ok)


def read_claim(payload: bytes, output_bytes: int) -> tuple[ExecutionStatus, str, str]:
    """Judge what a program says of a step: (status, stdout, error), or `protocol` for anything but a proper claim.

    A claim is a JSON object of exactly `status` (one that a program can know of itself), `stdout` and `error`, valid
    Unicode within the byte limits.
    """
    refused = ExecutionStatus.PROTOCOL, "", ""
    try:
        claim = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return refused
    if not isinstance(claim, dict) or claim.keys() != {"status", "stdout", "error"}:
        return refused
    if not all(isinstance(value, str) for value in claim.values()) or claim["status"] not in _CLAIMABLE:
        return refused
    if len(claim["stdout"].encode()) > output_bytes or len(claim["error"].encode()) > ERROR_BYTES:
        return refused
    return ExecutionStatus(claim["status"]), claim["stdout"], claim["error"]


class Worker:
    """One zygote, bare or with the scientific libraries, and the requests it has been given.

    Args:
        settings: limits of programs.
        scientific: whether numpy and sympy are loaded before the forks.

    Attributes:
        jobs: requests given and not answered, in order; the zygote works on the first.
        layers: isolation layers that hold, once it has started.
    """

    def __init__(self, settings: Settings, *, scientific: bool) -> None:
        self.scientific = scientific
        self.jobs: deque[Job] = deque()
        self.layers: tuple[str, ...] | None = None
        self._settings = settings
        self._outbox = bytearray()
        self._inbox = bytearray()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        told = asdict(settings) | {
            "control": theirs.fileno(),
            "host": os.getpid(),
            "scientific": scientific,
            "paths": _library_paths(),
        }
        arguments = ["-s", "-P", "-B", "-c", _BOOT, str(Path(__file__).parent), json.dumps(told)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
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
        """Whether the zygote has been silent for longer than its own clock allows: it is stuck."""
        return bool(self.jobs) and time.monotonic() > self._deadline

    def give(self, job: Job) -> None:
        """Append a request."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._start_clock()
        request = {"prefix": job.request.prefix, "branches": job.request.branches}
        self._outbox += frame(json.dumps(request).encode())  # not orjson: code may hold lone surrogates
        self.write()

    def write(self) -> None:
        """Send what the socket takes."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # a zygote that is gone shows in read()
            while self._outbox:
                sent = self.socket.send(memoryview(self._outbox)[: 1 << 20])
                del self._outbox[:sent]

    def read(self) -> list[Job] | None:
        """Take what has come; returns the jobs that it finished, or None where the zygote is gone.

        Raises:
            SetupError: it says that it can't start.
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
        return self._take_records()

    def _take_records(self) -> list[Job]:
        finished, start, size = [], 0, len(self._inbox)
        while start + RECORD.size <= size:
            kind, branch, seconds, length = RECORD.unpack_from(self._inbox, start)
            end = start + RECORD.size + length
            if end > size:
                break
            payload = bytes(self._inbox[start + RECORD.size : end])
            start = end
            if kind == Record.DONE:
                job = self.jobs.popleft()
                job.finish()
                finished.append(job)
                self._start_clock()
            elif kind == Record.READY:
                self.layers = tuple(json.loads(payload))
                self._start_clock()
            elif kind == Record.FAILED:
                raise SetupError(
                    f"a sandbox process can't start: {payload.decode(errors='replace')}",
                    remedy="install the package again: its dependencies are incomplete",
                )
            else:
                self.jobs[0].add(branch, self._result(Record(kind), seconds, payload))
        del self._inbox[:start]
        return finished

    def _result(self, kind: Record, seconds: float, payload: bytes) -> ExecutionResult:
        if kind is Record.CLAIM:
            return ExecutionResult(*read_claim(payload, self._settings.output_bytes), seconds)
        return ExecutionResult(_OUTCOMES[kind], seconds=seconds)

    def _start_clock(self) -> None:
        """Give the first job the time that the zygote may need for it, replays of the prefix included."""
        if self.layers is None or not self.jobs:
            return
        branches = len(self.jobs[0].request.branches)
        self._deadline = time.monotonic() + _SLACK_SECONDS + 2 * (branches + 1) * (self._settings.timeout + 2)

    def close(self) -> None:
        """End the zygote and all its programs."""
        self.socket.close()  # the guard sees it and ends everything
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()  # takes the zygote with it
            self._process.wait()


def _environment() -> dict[str, str]:
    """The zygote's environment: nothing of ours but what the dynamic linker needs to start Python."""
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
