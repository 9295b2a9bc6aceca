"""How many cores there are, and how many PyTorch gets."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_one_core() -> None:
    """Give PyTorch all cores but one, unless OMP_NUM_THREADS says how many.

    The sandbox and the rest of the machine need one: a thread that waits for a core stalls all others at every
    operation (measured: 4 to 20 times slower with two threads on two busy cores).
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, count_cores() - 1))
