"""Warm worker processes for the symbolic stage, each case under a wall-clock deadline.

A worker that is late is killed (SIGKILL: a signal handler can't interrupt a long operation in C) and replaced; the
other workers go on meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rstar_cli.errors import SetupError
from rstar_cli.protocols import Grade
from rstar_cli.records import Verdict

_START_TIMEOUT = 120.0
"""Seconds for the imports of a worker, on a busy machine."""


class _Worker:
    """One process, and the case it works on (None: it is starting or idle)."""

    def __init__(self, timeout: float) -> None:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # our own, not the current directory
            "PYTHONHASHSEED": "0",  # sympy's orders, hence its results, depend on it
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rstar_cli.grader.worker", str(timeout), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self.ready = False
        self.case: int | None = None
        self.deadline = time.monotonic() + _START_TIMEOUT
        self.buffer = b""

    @property
    def output(self) -> int:
        """The file descriptor of its replies."""
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        return self.process.stdout.fileno()

    def send(self, case: int, gold: str, prediction: str, timeout: float) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.case, self.deadline = case, time.monotonic() + timeout
        request = json.dumps({"gold": gold, "prediction": prediction}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its output tells
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """A reply; an empty one if it isn't complete yet; None if the process ended."""
        chunk = os.read(self.output, 65536)
        if not chunk:
            return None
        self.buffer += chunk
        line, newline, rest = self.buffer.partition(b"\n")
        if not newline:
            return {}
        self.buffer = rest
        reply: dict[str, Any] = json.loads(line)
        return reply

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # an unsent request in the buffer
                    pipe.close()


class WorkerPool:
    """Up to `size` workers, started on first need.

    Args:
        size: most workers at once, >= 1.
        timeout: wall-clock seconds a case, > 0.
    """

    def __init__(self, size: int, timeout: float) -> None:
        self._size = size
        self._timeout = timeout
        self._workers: list[_Worker] = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Ids of the live workers."""
        return tuple(worker.process.pid for worker in self._workers)

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade (gold, prediction) pairs, in order.

        Raises:
            SetupError: a worker can't start.
        """
        grades: dict[int, Grade] = {}
        waiting = deque(range(len(pairs)))
        try:
            while len(grades) < len(pairs):
                self._dispatch(waiting, pairs)
                for worker in self._await():
                    self._collect(worker, grades)
                for worker in [w for w in self._workers if time.monotonic() >= w.deadline and not self._is_idle(w)]:
                    self._expire(worker, grades)
        except BaseException:
            self.close()  # a worker in the middle of a case must not answer the next one
            raise
        return [grades[i] for i in range(len(pairs))]

    def close(self) -> None:
        """Kill every worker."""
        while self._workers:
            self._workers.pop().kill()

    @staticmethod
    def _is_idle(worker: _Worker) -> bool:
        return worker.ready and worker.case is None

    def _dispatch(self, waiting: deque[int], pairs: Sequence[tuple[str, str]]) -> None:
        """Give cases to idle workers; start as many as there is work for."""
        for worker in [w for w in self._workers if self._is_idle(w)]:
            if worker.process.poll() is not None:  # ended between cases: killed from outside, or out of memory
                self._drop(worker)
            elif waiting:
                case = waiting.popleft()
                worker.send(case, *pairs[case], self._timeout)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), len(waiting) - starting)):
            self._workers.append(_Worker(self._timeout))

    def _await(self) -> list[_Worker]:
        """Workers with something to read, after a wait until the next deadline at most."""
        busy = [worker for worker in self._workers if not self._is_idle(worker)]
        if not busy:
            return []
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            wait = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            return [key.data for key, _ in selector.select(wait)]

    def _collect(self, worker: _Worker, grades: dict[int, Grade]) -> None:
        reply = worker.receive()
        if reply is None:
            self._drop(worker)
            if worker.case is None:
                raise SetupError(
                    "the grader's worker process ended while it started",
                    remedy="Check free memory, and that `python -c 'import math_verify'` works.",
                )
            grades[worker.case] = Grade(Verdict.ERROR, "crash")
        elif reply and worker.case is None:
            if not reply.get("ready"):
                raise SetupError(
                    f"the grader's worker process: {reply.get('error')}", remedy="Install rstar-cli again."
                )
            worker.ready = True
        elif reply and worker.case is not None:
            grades[worker.case] = _grade(reply)
            worker.case = None

    def _expire(self, worker: _Worker, grades: dict[int, Grade]) -> None:
        self._drop(worker)
        if worker.case is None:
            raise SetupError(
                f"the grader's worker process did not start within {_START_TIMEOUT:.0f} s",
                remedy="Try again when the machine is less busy.",
            )
        grades[worker.case] = Grade(Verdict.TIMEOUT, "timeout")

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()


def _grade(reply: dict[str, Any]) -> Grade:
    if "error" in reply:
        return Grade(Verdict.ERROR, str(reply["error"]))
    return Grade(Verdict.CORRECT if reply["equal"] else Verdict.INCORRECT, str(reply["stage"]))
