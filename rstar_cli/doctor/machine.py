"""What this machine has: Python, PyTorch and its devices, memory, disk, cores."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

from rstar_cli.cores import count_cores

_CGROUP = Path("/sys/fs/cgroup")


def look() -> dict[str, Any]:
    """Plain values by name; sizes in GB, None where the system does not tell."""
    torch, devices = _torch()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": count_cores(),
        "memory_free_gb": _free_memory(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "torch": torch,
        "devices": devices,
    }


def _torch() -> tuple[str | None, list[str]]:
    """Version of PyTorch, and where it can compute; (None, []) where it can't be loaded."""
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library that it is linked with is missing
        return None, []
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return torch.__version__, devices


def _free_memory() -> float | None:
    """What can be had without swapping, in GB: of the machine, or of a container that may have less."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = ((_CGROUP / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup of our own, or the limit is `max`
        pass
    return round(free / 1e9, 1)
