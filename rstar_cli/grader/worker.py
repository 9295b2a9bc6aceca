"""The grader's worker process: `python -m rstar_cli.grader.worker SECONDS PARENT POLICY`, started by `pool` alone.

JSON lines: after the imports it writes `{"ready": true}`; then for every `{"gold": ..., "prediction": ...}` one
`{"equal": true | false, "stage": ...}` or `{"error": ...}`, in order, whatever happens: the comparing is done in a
child, a copy of this process with all imports done. A child that is late or dies is replaced in milliseconds.

A child has `SECONDS` of processor time a case, kept by the kernel, so that a busy machine changes no verdict; ten times
that by the clock, kept here, ends what neither computes nor answers. Both end in C code too, where a Python signal
handler would wait.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
from typing import TextIO

from rstar_cli.grader.policy import STRICT, Policy

MEMORY_LIMIT = 2 << 30
"""Address space of a child, bytes."""
_STALE_MEMORY = 1 << 30
"""Peak resident memory, bytes, after which a child ends and a fresh one takes over."""
_PATIENCE = 10.0
"""Seconds by the clock a second of processor time."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until the input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())  # nothing that a library prints may look like a reply
    seconds, parent, policy = float(sys.argv[1]), int(sys.argv[2]), Policy(**json.loads(sys.argv[3]))
    _die_with(parent)
    try:
        _import_all()
    except ImportError as error:
        print(json.dumps({"error": f"can't import {error.name}: {error}"}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    child = _Child(seconds, policy)
    for line in sys.stdin.buffer:
        if not child.alive:
            child = _Child(seconds, policy)
        print(child.ask(line), file=replies, flush=True)


class _Child:
    """A copy of this process that compares, case after case."""

    def __init__(self, seconds: float, policy: Policy) -> None:
        self._seconds = seconds
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._requests)
            os.close(self._replies)
            _serve(os.fdopen(requests, encoding="utf-8"), os.fdopen(replies, "w", encoding="utf-8"), seconds, policy)
        os.close(requests)
        os.close(replies)
        self.alive = True

    def ask(self, request: bytes) -> str:
        """The reply to a request; both are one line of JSON."""
        reply = b""
        try:
            os.write(self._requests, request)  # answers are bounded: a request fits the pipe
            while not reply.endswith(b"\n"):
                readable, _, _ = select.select([self._replies], [], [], _PATIENCE * self._seconds)
                if not readable:
                    self._end()
                    return json.dumps({"error": "timeout"})
                part = os.read(self._replies, 65536)
                if not part:
                    return json.dumps({"error": self._end()})
                reply += part
        except BrokenPipeError:  # it died between two cases
            return json.dumps({"error": self._end()})
        answer = reply.decode().strip()
        if '"stale"' in answer:
            self._end()
        return answer

    def _end(self) -> str:
        """End it, if it has not ended by itself, and tell how."""
        os.kill(self._pid, signal.SIGKILL)  # a zombie at most: its number is not given away before we wait for it
        _, status = os.waitpid(self._pid, 0)
        os.close(self._requests)
        os.close(self._replies)
        self.alive = False
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
        return "timeout" if late else "crash"


def _serve(requests: TextIO, replies: TextIO, seconds: float, policy: Policy) -> None:
    """Compare until the input ends, in the child; never returns."""
    _limit()
    try:
        for line in requests:
            case = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
            reply = _answer(case["gold"], case["prediction"], policy)
            signal.setitimer(signal.ITIMER_PROF, 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            if peak > _STALE_MEMORY:  # libraries swallow MemoryError: a "no" that took so much is not to be trusted
                reply = {"error": "memory"} if not reply.get("equal") else reply
                reply["stale"] = True
            print(json.dumps(reply), file=replies, flush=True)
    finally:
        os._exit(0)


def _answer(gold: str, prediction: str, policy: Policy) -> dict[str, object]:
    from rstar_cli.grader.compare import Comparison
    from rstar_cli.grader.exact import BoundsError
    from rstar_cli.grader.symbolic import SymbolicOracle

    comparison = Comparison(SymbolicOracle(), policy)
    try:
        equal = comparison.answers(gold, prediction)
    except BoundsError:
        return {"error": "bounds"}
    except (MemoryError, RecursionError) as error:
        return {"error": type(error).__name__}
    return {"equal": bool(equal), "stage": comparison.stage}


def _import_all() -> None:
    import math_verify  # noqa: F401 - imports here are not part of any case's time

    from rstar_cli.grader import compare, symbolic

    symbolic.disarm()
    compare.Comparison(symbolic.SymbolicOracle(), STRICT).answers(
        r"\sum_{k=1}^{2}k", "3.0"
    )  # builds tables once, for all


def _die_with(parent: int) -> None:
    """End when the parent does.

    Linux signals the death of the *thread* that started us, so the handler asks whether the process is gone.
    """
    if sys.platform != "linux":
        return  # there the end of the input must do

    def check(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR1, check)
    _signal_on_death(signal.SIGUSR1)
    check()  # it may have died before we asked


def _signal_on_death(number: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _limit() -> None:
    """No files, no processes, no core dumps, bounded memory. A second fence: nothing here runs text as code."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    if sys.platform == "linux":
        _signal_on_death(signal.SIGKILL)
    limits = {
        resource.RLIMIT_AS: MEMORY_LIMIT,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # macOS refuses some; the deadline still holds
            continue


if __name__ == "__main__":
    main()
