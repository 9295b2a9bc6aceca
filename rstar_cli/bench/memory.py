"""What this process and paused programs hold of the machine's memory."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def stopped_descendants() -> list[int]:
    """Processes below this one that are stopped: what a sandbox has paused. None where there is no /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = place.read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
        except OSError:  # it has ended since
            continue
        children.setdefault(int(parent), []).append((int(place.parent.name), state))
    stopped, left = [], [os.getpid()]
    while left:
        below = children.get(left.pop(), [])
        stopped += [pid for pid, state in below if state == "T"]
        left += [pid for pid, _ in below]
    return stopped


def proportional_mb(pid: int) -> float | None:
    """PSS of a process in MB: its own pages, its share of those that others map too; None where it can't be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), None)


def peak_mb() -> float:
    """The most that this process has held in memory so far, in MB.

    Linux's `ru_maxrss` begins with what the process that started this one held; its status file does not.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
