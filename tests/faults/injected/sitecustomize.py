"""Faults from inside, for tests: Python imports this at its start where its folder is on PYTHONPATH.

RSTAR_TEST_KILL has the process kill itself at a change on the disk, RSTAR_TEST_CLOCK makes `time.time` jump.
"""

import functools
import json
import os
import random
import signal
import stat
import time

KINDS = ("write", "fsync", "replace", "rename", "unlink", "ftruncate")


def _is_file(fd):
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _kill_at(event, kinds, before):
    seen = 0

    def counting(kind, function):
        @functools.wraps(function)
        def call(*args, **more):
            nonlocal seen
            if kind == "write" and not _is_file(args[0]):
                return function(*args, **more)
            seen += 1
            if seen == event and before:
                if kind == "write":
                    function(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            now = seen == event
            try:
                return function(*args, **more)
            finally:  # whatever came of it
                if now:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for kind in kinds or KINDS:
        setattr(os, kind, counting(kind, getattr(os, kind)))


if told := os.environ.get("RSTAR_TEST_KILL"):
    _kill_at(**json.loads(told))

if "RSTAR_TEST_CLOCK" in os.environ:
    real, jumps = time.time, random.Random(0)
    time.time = lambda: real() + jumps.uniform(-1e6, 1e6)
