"""Runs a command, and ends it with all its children when whoever started us is gone. Needs no package.

`python watchdog.py COMMAND...`, started with a pipe as stdin, as the leader of a process group. The pipe's end, which
comes with the death of its writer, `kill -9` included, means: stop. A change of the parent means it, too, since others
may hold the pipe open.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL."""


def main() -> int:
    """Run the command; returns its exit status, unless it had to be ended: then nothing of the group is left."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to our group, so to us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_default_signals)
    while child.poll() is None and os.getppid() == parent:
        if select.select([0], [], [], 0.5)[0] and not os.read(0, 1024):
            break
    status = child.poll()
    if status is None:
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(0, signal.SIGKILL)  # what is left of the children, and we
    return status or 0


def _default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
