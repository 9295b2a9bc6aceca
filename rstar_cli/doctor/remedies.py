"""Why a layer of the sandbox is missing on this machine, and what can be done."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

LAYERS = {
    "pid": "sees no process but its own",
    "net": "a network of its own, with nobody on it",
    "mount": "a read-only root with Python and the system libraries alone",
    "user": "a user id that owns nothing",
    "limits": "bounded memory, time, descriptors; no file written",
    "landlock": "reads no file but Python's and the system libraries'",
    "seccomp": "makes only the system calls that computing needs",
    "grants": "states can be held, so that a search runs each step once",
}
"""Layers by name, and what each means for a program."""

_SYSCTLS = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
)
_CONTAINERS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
_GVISOR = "Sun Jan 10 15:06:54 PST 2016"
"""The date that gVisor's kernel says it was built on."""


@dataclass(frozen=True, slots=True)
class System:
    """What layers hang on.

    Attributes:
        name: `Linux`, `Darwin`, ...
        machine: architecture, as `x86_64`.
        kernel: its version's first two numbers.
        root: whether we are root.
        container: whether we are in one, by the files that its runtimes leave.
        gvisor: whether the kernel is gVisor.
        sysctls: settings of the kernel by path, those that exist.
        modules: its security modules; empty where it does not tell.
    """

    name: str
    machine: str
    kernel: tuple[int, int]
    root: bool
    container: bool
    gvisor: bool
    sysctls: Mapping[str, str]
    modules: str


def this_system() -> System:
    """What we run on."""
    numbers = [part for part in platform.release().replace("-", ".").split(".")[:2] if part.isdigit()]
    major, minor, *_ = [*map(int, numbers), 0, 0]
    return System(
        platform.system(),
        platform.machine(),
        (major, minor),
        os.geteuid() == 0,
        any(Path(path).exists() for path in _CONTAINERS),
        _GVISOR in _read("/proc/version"),
        {name: value for name in _SYSCTLS if (value := _read(f"/proc/sys/{name}"))},
        _read("/sys/kernel/security/lsm"),
    )


def remedies(layers: Collection[str], system: System) -> list[str]:
    """A sentence for each thing that is missing, the most important first.

    Args:
        layers: those that hold.
        system: where.
    """
    if system.name != "Linux":
        return [
            f"{system.name} can limit programs, not isolate them: run rstar in a Linux container or virtual machine."
        ]
    told = []
    if "pid" not in layers:
        told.append(_without_namespaces(system))
    elif "mount" not in layers:
        told.append(_without_mounts(system))
    if "user" not in layers and system.root:
        told.append("Another user can't read this Python: install it outside root's home directory.")
    if "landlock" not in layers:
        told.append(_without_landlock(system))
    if "seccomp" not in layers:
        told.append(_without_filter(system))
    elif "grants" not in layers:
        told.append(
            "Forks can't be granted one by one, so searches replay prefixes, which is slower: Linux 5.5 is needed, and "
            "a container runtime that does not listen to the filter itself."
        )
    return told


def _without_namespaces(system: System) -> str:
    if system.gvisor:
        return "gVisor lacks namespaces that the sandbox needs: use another container runtime, as runc."
    if system.sysctls.get("kernel/unprivileged_userns_clone") == "0" and not system.root:
        return "User namespaces are off: sysctl -w kernel.unprivileged_userns_clone=1"
    if system.sysctls.get("user/max_user_namespaces") == "0":
        return "User namespaces are off: sysctl -w user.max_user_namespaces=10000"
    if system.container:
        return (
            "The container forbids namespaces, as Docker's default seccomp profile does: start it with "
            "--security-opt seccomp=unconfined, or with a profile that allows unshare and mount."
        )
    if system.sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == "1" and not system.root:
        return (
            "AppArmor forbids user namespaces (Ubuntu): sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, "
            "or a profile with `userns,` for this Python."
        )
    return "Namespaces are forbidden: allow unshare to this user, or run as root."


def _without_mounts(system: System) -> str:
    if system.kernel < (5, 12):
        return "A root of its own for programs needs Linux 5.12."
    return (
        "Mounts are forbidden, as Docker's AppArmor profile does: start the container with "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined."
    )


def _without_landlock(system: System) -> str:
    if system.gvisor:
        return "gVisor has no Landlock."
    if system.kernel < (5, 13):
        return "The kernel is too old for Landlock: Linux 5.13 has it."
    if system.modules and "landlock" not in system.modules.split(","):
        return f"Landlock is off: start the kernel with lsm=landlock,{system.modules}"
    return "Landlock is not in this kernel, or the container's seccomp profile forbids it."


def _without_filter(system: System) -> str:
    if system.machine != "x86_64":
        return f"The filter of system calls is written for x86_64, and this is {system.machine}."
    return "The kernel filters no system calls: one with CONFIG_SECCOMP_FILTER is needed."


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
