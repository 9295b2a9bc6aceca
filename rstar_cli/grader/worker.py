"""The grader's worker process: `python -m rstar_cli.grader.worker TIMEOUT PARENT`, started by `pool` and nobody else.

JSON lines: after the imports it writes `{"ready": true}`; then for every `{"gold": ..., "prediction": ...}` one
`{"equal": true | false, "stage": ...}` or `{"error": ...}`. It ends at the end of its input, and is killed with its
parent. It may be killed at any time: it holds no state.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys

MEMORY_LIMIT = 2 << 30
"""Address space of a worker, bytes."""
_STALE_MEMORY = 1 << 30
"""Peak resident memory, bytes, after which a worker ends and a fresh one takes over."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until the input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())  # nothing that a library prints may look like a reply
    _die_with_parent()
    timeout = float(sys.argv[1])
    try:
        _import_all()
    except ImportError as error:
        print(json.dumps({"error": f"can't import {error.name}: {error}"}), file=replies, flush=True)
        return
    _limit()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        _allow_cpu(timeout)
        reply = _answer(case["gold"], case["prediction"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if peak > _STALE_MEMORY and not reply.get("equal"):
            reply = {"error": "memory"}  # libraries swallow MemoryError: such a "no" is not to be trusted
        print(json.dumps(reply), file=replies, flush=True)
        if peak > _STALE_MEMORY:
            return


def _answer(gold: str, prediction: str) -> dict[str, object]:
    from rstar_cli.grader.compare import Comparison
    from rstar_cli.grader.exact import BoundsError
    from rstar_cli.grader.symbolic import SymbolicOracle

    comparison = Comparison(SymbolicOracle())
    try:
        equal = comparison.answers(gold, prediction)
    except BoundsError:
        return {"error": "bounds"}
    except (MemoryError, RecursionError) as error:
        return {"error": type(error).__name__}
    return {"equal": bool(equal), "stage": comparison.stage}


def _import_all() -> None:
    import math_verify  # noqa: F401 - imports here are not part of any case's time

    from rstar_cli.grader import symbolic

    symbolic.disarm()


def _die_with_parent() -> None:
    """End when the parent does, even in the middle of a case.

    Linux signals the death of the *thread* that started us, so the handler asks whether the process is gone. In a long
    operation in C the handler waits; then the CPU limit of the case ends it.
    """
    if sys.platform != "linux":
        return  # there the end of the input and the CPU limit must do
    parent = int(sys.argv[2])

    def check(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR1, check)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    check()  # it may have died before we asked


def _limit() -> None:
    """No files, no processes, no core dumps, bounded memory. A second fence: nothing here runs text as code."""
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


def _allow_cpu(seconds: float) -> None:
    """CPU time for one case: a backstop for when nobody is there to kill us."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
