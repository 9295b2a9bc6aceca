"""How strong the isolation is that a machine allows, in one word."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from rstar_cli.records import Isolation

STRENGTH: tuple[Isolation, ...] = get_args(Isolation)

_FULL = frozenset({"user", "pid", "net", "mount", "seccomp", "limits"})
_FILTERED = frozenset({"landlock", "seccomp", "limits"})


def isolation_of(layers: Collection[str]) -> Isolation:
    """The level that layers come to. Where programs have a root of their own it does not hang on Landlock."""
    if set(layers) >= _FULL:
        return "full"
    if set(layers) >= _FILTERED:
        return "landlock+seccomp"
    return "rlimits" if "limits" in layers else "none"
