"""Runs untrusted programs on several supervisors at once."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

from rstar_cli.errors import SetupError, UsageError
from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.records import ExecutionStatus, Isolation
from rstar_cli.sandbox.levels import STRENGTH, isolation_of
from rstar_cli.sandbox.worker import Job, Settings, Worker, spare_memory_mb, tree_key

_log = logging.getLogger(__name__)

_AHEAD = 2
"""Requests that a supervisor is given at a time: the next one is there when it has finished one."""
_LOOK_AHEAD = 256
"""Waiting requests among which a worker looks for one that is at home on it."""
_WINDOW = 32
"""Programs under way for each worker in `run_many`."""
_ATTEMPTS = 2


class Sandbox:
    """Runs untrusted Python outside our process; a `rstar_cli.protocols.StepExecutor`.

    What contains a program, and what does not: see `rstar_cli.sandbox`. To be used from one thread at a time, `forget`
    from any. Processes start when the first code comes.

    Args:
        workers: programs run at the same time; None for one a core that we may use.
        timeout: seconds of wall clock for a branch's new steps; replaying the prefix has as much again.
        memory_mb: MiB that a program may map beyond the warm interpreter.
        output_bytes: most bytes of standard output a step.
        tree: hold the states of steps, so that a request runs only what is new; else every branch runs its whole path.
        states: most states that a worker holds.
        floor: refuse to run with less isolation than this; only with `none` is nothing said of running with little.
        without: isolation layers to leave out, for measurements and tests: `pid` (with it all namespaces), `mount`,
            `landlock`, `seccomp`, `grants`.

    Attributes:
        counts: steps and programs executed so far, by status; replayed prefixes are not counted.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        timeout: float = 10.0,
        memory_mb: int = 1024,
        output_bytes: int = 65536,
        tree: bool = False,
        states: int = 1024,
        floor: Isolation = "rlimits",
        without: Sequence[str] = (),
    ) -> None:
        if workers is None:
            workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if workers < 1 or timeout <= 0 or memory_mb < 1 or output_bytes < 1 or states < 2:
            raise UsageError("the sandbox needs at least 1 worker, 2 states, and limits above 0")
        self.counts: Counter[ExecutionStatus] = Counter()
        held_mb = spare_memory_mb() // (2 * workers)
        self._settings = Settings(timeout, memory_mb, output_bytes, states if tree else 0, held_mb, tuple(without))
        self._floor: Isolation = floor
        self._workers: list[Worker | None] = [None] * workers
        self._waiting: deque[Job] = deque()
        self._homes: dict[str, int] = {}
        self._forgotten: deque[str] = deque()
        self._selector = selectors.DefaultSelector()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process; the sandbox can't be used again."""
        for worker in self._alive():
            self._end(worker)
        self._waiting.clear()
        self._selector.close()
        self._closed = True

    def layers(self) -> tuple[str, ...]:
        """Isolation layers that hold on this machine; see `rstar_cli.sandbox`.

        Raises:
            SetupError: no program can be run.
        """
        self.run("")
        layers = next((worker.layers for worker in self._alive() if worker.layers is not None), None)
        if layers is None:
            raise SetupError("no program can be run", remedy="check the limits on memory and processes of this machine")
        return layers

    def isolation(self) -> Isolation:
        """How strong they are together."""
        return isolation_of(self.layers())

    def forget(self, tree: str) -> None:
        """Drop the states of a tree whose search is over."""
        self._forgotten.append(tree_key(tree))

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        """Per request, per branch: the results of its steps up to and with the first failure.

        Branches never see each other's effects; equal requests give equal results, whatever is held. With `tree` a
        prefix runs once for all branches and for later requests, else again for every branch.

        Args:
            requests: in any number; they are spread over the workers.

        Raises:
            SetupError: the sandbox can't start.
        """
        jobs = [self._submit(request) for request in requests]
        try:
            while any(job.results is None for job in jobs):
                self._pump()
        finally:
            self._take_back(jobs)
        return [job.results or [] for job in jobs]

    def run(self, code: str) -> ExecutionResult:
        """Run a whole program."""
        return self.execute([ExecuteRequest((), ((code,),))])[0][0][0]

    def run_many(self, codes: Iterable[str | None]) -> Iterator[ExecutionResult]:
        """Run whole programs as they come; yields each result as soon as it and those before it are there.

        Args:
            codes: the programs; iterated in a thread of its own, so that it may wait for input. None is nothing to run:
                it takes its turn and costs no process.

        Raises:
            SetupError: the sandbox can't start.
        """
        feed = _Feed(codes, _WINDOW * len(self._workers))
        self._selector.register(feed.signal, selectors.EVENT_READ)
        under_way: deque[Job] = deque()
        try:
            while True:
                over = feed.over
                while feed.codes:
                    code = feed.codes.popleft()
                    under_way.append(_nothing() if code is None else self._submit(ExecuteRequest((), ((code,),))))
                while under_way and (results := under_way[0].results) is not None:
                    under_way.popleft()
                    feed.room.release()
                    yield results[0][0]
                if over and not under_way:
                    break
                self._pump()
            if feed.error is not None:
                raise feed.error
        finally:
            if not self._closed:
                with contextlib.suppress(KeyError):  # it has been over
                    self._selector.unregister(feed.signal)
            feed.close()
            self._take_back(under_way)

    def _submit(self, request: ExecuteRequest) -> Job:
        job = Job(request)
        self._waiting.append(job)
        return job

    def _pump(self) -> None:
        """Hand out work, then wait for something to happen, at most a second, and take it in."""
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        self._drop_forgotten()
        self._hand_out()
        for worker in self._alive():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_to_write else 0)
            if self._selector.get_key(worker.socket).events != events:
                self._selector.modify(worker.socket, events, worker)
        for key, events in self._selector.select(1.0):
            if key.data is None:
                if not key.fileobj.recv(4096):  # type: ignore[union-attr]  # a feed's signal: a socket
                    self._selector.unregister(key.fileobj)  # it has no more to tell
                continue
            if events & selectors.EVENT_WRITE:
                key.data.write()
            if events & selectors.EVENT_READ:
                self._take_in(key.data)
        for worker in self._alive():
            if worker.overdue:
                self._bury(worker)

    def _hand_out(self) -> None:
        """Give waiting jobs to workers, to each one more than it works on. A tree's states are where it was last."""
        for slot, worker in enumerate(self._workers):
            while self._waiting and (worker is None or len(worker.jobs) < _AHEAD):
                if worker is None:
                    worker = self._workers[slot] = Worker(self._settings)
                    self._selector.register(worker.socket, selectors.EVENT_READ, worker)
                job = self._pick(slot, idle=not worker.jobs)
                if job is None:
                    break
                worker.give(job)

    def _pick(self, slot: int, *, idle: bool) -> Job | None:
        """Take the first waiting job that is at home on a worker, or at home nowhere; an idle one takes any."""
        near = enumerate(islice(self._waiting, _LOOK_AHEAD))
        i = next((i for i, job in near if self._homes.get(job.tree, slot) == slot), 0 if idle else None)
        if i is None:
            return None
        job = self._waiting[i]
        del self._waiting[i]
        if self._settings.states and job.request.tree:
            self._homes[job.tree] = slot
        return job

    def _drop_forgotten(self) -> None:
        while self._forgotten:
            tree = self._forgotten.popleft()
            self._homes.pop(tree, None)
            for worker in self._alive():
                worker.forget(tree)

    def _take_in(self, worker: Worker) -> None:
        fresh = worker.layers is None
        try:
            finished = worker.read()
            if fresh and worker.layers is not None:
                self._check_floor(worker.layers)
        except BaseException:
            self._end(worker)
            self._waiting.extendleft(reversed(worker.jobs))  # some may be another caller's
            raise
        if finished is None:
            self._bury(worker)
            return
        for job in finished:
            self._count(job)

    def _check_floor(self, layers: Sequence[str]) -> None:
        found = isolation_of(layers)
        if STRENGTH.index(found) < STRENGTH.index(self._floor):
            raise SetupError(
                f"this machine isolates programs at level {found!r} ({', '.join(layers)}), below {self._floor!r}",
                remedy="see `rstar doctor`; allow user namespaces and seccomp, or accept less with --isolation",
            )
        if self._floor != "none" and STRENGTH.index(found) < STRENGTH.index("landlock+seccomp"):
            _log.warning("programs run at isolation level %r: they can read your files; see `rstar doctor`", found)

    def _count(self, job: Job) -> None:
        self.counts.update(result.status for results in job.results or [] for result in results)

    def _bury(self, worker: Worker) -> None:
        """End a supervisor that is gone or stuck; what it worked on is tried once more, what waited for it waits."""
        self._end(worker)
        if worker.jobs:
            worker.jobs[0].attempts += 1
            if worker.jobs[0].attempts >= _ATTEMPTS:
                if not worker.started:
                    raise SetupError(
                        "a sandbox process ended at its start",
                        remedy="check the limits on memory and processes of this machine",
                    )
                job = worker.jobs.popleft()
                job.lose()
                self._count(job)
        self._waiting.extendleft(reversed(worker.jobs))

    def _take_back(self, jobs: Collection[Job]) -> None:
        """Take back jobs that nobody waits for any more."""
        self._waiting = deque(job for job in self._waiting if job not in jobs)

    def _alive(self) -> list[Worker]:
        return [worker for worker in self._workers if worker is not None]

    def _end(self, worker: Worker) -> None:
        self._workers[self._workers.index(worker)] = None
        self._selector.unregister(worker.socket)
        worker.close()


def _nothing() -> Job:
    """What is done without being run."""
    job = Job(ExecuteRequest((), ()))
    job.results = [[ExecutionResult(ExecutionStatus.OK)]]
    return job


class _Feed:
    """Takes programs from an iterable, in a thread, a bounded number ahead of the results.

    Attributes:
        codes: programs taken and not yet picked up.
        over: whether there will be no more; read it before `codes`.
        error: what the iterable raised.
        room: to be released once for each result that is passed on.
        signal: becomes readable when something has changed.
    """

    def __init__(self, codes: Iterable[str | None], ahead: int) -> None:
        self.codes: deque[str | None] = deque()
        self.over = False
        self.error: Exception | None = None
        self.room = threading.Semaphore(ahead)
        self.signal, self._changed = socket.socketpair()
        self._closed = False
        threading.Thread(target=self._take, args=(iter(codes),), name="programs", daemon=True).start()

    def _take(self, codes: Iterator[str | None]) -> None:
        with self._changed, contextlib.suppress(OSError):  # nobody listens any more
            while self.room.acquire() and not self._closed:
                try:
                    self.codes.append(next(codes))
                except StopIteration:
                    break
                except Exception as exc:  # noqa: BLE001 - raised again where the results are read
                    self.error = exc
                    break
                self._changed.send(b".")
            self.over = True
            self._changed.send(b".")

    def close(self) -> None:
        """Have the thread end, at the latest when the iterable gives its next program."""
        self._closed = True
        self.room.release()
        self.signal.close()
