"""Warm worker processes for the symbolic stage (see `worker`): as many cases at once as there are workers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from rstar_cli.errors import SetupError
from rstar_cli.grader.policy import Policy
from rstar_cli.protocols import Grade
from rstar_cli.records import Verdict

_START_TIMEOUT = 120.0
"""Seconds for the imports of a worker, on a busy machine."""
_BACKSTOP = 30.0
"""Seconds, and as many a second of a case's time, after which a worker itself is given up."""


class _Worker:
    """One process and its pipes."""

    def __init__(self, seconds: float, policy: Policy) -> None:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # our own, not the current directory
            "PYTHONHASHSEED": "0",  # sympy's orders, hence its results, depend on it
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        arguments = [str(seconds), str(os.getpid()), json.dumps(asdict(policy))]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rstar_cli.grader.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self._seconds = seconds

    def start(self) -> None:
        """Wait for its imports.

        Raises:
            SetupError: they failed, or took too long.
        """
        reply = self._receive(_START_TIMEOUT)
        if reply is None:
            raise SetupError(
                f"the grader's worker process ended, or did not start within {_START_TIMEOUT:.0f} s",
                remedy="Check free memory, and that `python -c 'import math_verify'` works.",
            )
        if not reply.get("ready"):
            raise SetupError(f"the grader's worker process: {reply.get('error')}", remedy="Install rstar-cli again.")

    def ask(self, gold: str, prediction: str) -> dict[str, Any] | None:
        """The reply to a case; None if the process has ended."""
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        request = json.dumps({"gold": gold, "prediction": prediction}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # the end of its output tells
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        return self._receive(_BACKSTOP * (1 + self._seconds))

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        output = self.process.stdout.fileno()
        poll = select.poll()  # `select` knows no descriptor above 1,023
        poll.register(output, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(output, 65536) if poll.poll(1000 * timeout) else b""
            if not part:
                return None
            line += part
        reply: dict[str, Any] = json.loads(line)
        return reply

    def end(self) -> None:
        """Kill the process; close the pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # an unsent request in the buffer
                    pipe.close()


class WorkerPool:
    """Up to `size` workers, started on first need. Safe to call from several threads.

    Args:
        size: most workers, and cases, at once, >= 1.
        seconds: processor time a case, > 0.
        policy: what counts as equal.
    """

    def __init__(self, size: int, seconds: float, policy: Policy) -> None:
        self._size = size
        self._seconds = seconds
        self._policy = policy
        self._places = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._generation = 0
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Ids of the live workers."""
        with self._lock:
            return tuple(worker.process.pid for worker in (*self._idle, *self._busy))

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade (gold, prediction) pairs, in order.

        Raises:
            SetupError: a worker can't start.
        """
        threads, generation = min(self._size, len(pairs)), self._generation
        if threads <= 1:
            return [self._ask(generation, *pair) for pair in pairs]
        executor = ThreadPoolExecutor(threads)
        try:
            return list(executor.map(lambda pair: self._ask(generation, *pair), pairs))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            self.close()  # ends what the threads wait for
            raise
        finally:
            executor.shutdown()

    def close(self) -> None:
        """Kill every worker. What is being graded in other threads, or waits to be, ends as `crash`."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.process.kill()
        for worker in idle:
            worker.end()

    def _ask(self, generation: int, gold: str, prediction: str) -> Grade:
        with self._places:
            worker: _Worker | None = None
            try:
                if generation == self._generation:
                    worker = self._take()
                reply = worker.ask(gold, prediction) if worker and generation == self._generation else None
            except BaseException as error:
                if worker is not None:
                    self._give_up(worker)  # in the middle of a case it must not answer the next one
                if isinstance(error, SetupError) and generation != self._generation:
                    return Grade(Verdict.ERROR, "crash")  # it was killed while it started
                raise
            if worker is None or reply is None:
                if worker is not None:
                    self._give_up(worker)
                return Grade(Verdict.ERROR, "crash")
            with self._lock:
                self._busy.remove(worker)
                self._idle.append(worker)
            return _grade(reply)

    def _take(self) -> _Worker:
        """A worker that is ready: an idle one that lives, or a new one."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
                if worker is not None and worker.process.poll() is None:
                    self._busy.add(worker)
                    return worker
            if worker is None:
                break
            worker.end()  # killed from outside
        worker = _Worker(self._seconds, self._policy)
        with self._lock:
            self._busy.add(worker)
        try:
            worker.start()
        except BaseException:
            self._give_up(worker)
            raise
        return worker

    def _give_up(self, worker: _Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
        worker.end()


def _grade(reply: dict[str, Any]) -> Grade:
    error = reply.get("error")
    if error is not None:
        return Grade(Verdict.TIMEOUT if error == "timeout" else Verdict.ERROR, str(error))
    return Grade(Verdict.CORRECT if reply["equal"] else Verdict.INCORRECT, str(reply["stage"]))
