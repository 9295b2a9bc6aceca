"""Landlock: no file may be written, none read but those named; no TCP; no signal or abstract socket out of here.

Every right that the kernel's version knows is handled, so what a rule does not give is refused. It does not cover
stat, chmod, chown or utime: those are the filter's and the private root's. man page: landlock(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of the interface: how many rights on files it knows."""
_TCP = 3
_SCOPES = 3


def version() -> int:
    """Version of the kernel's interface; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    found: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION)
    return max(found, 0)


def restrict(readable: Iterable[Path]) -> bool:
    """Restrict this process and all that it forks to reading below these paths, for ever. Needs NO_NEW_PRIVS.

    Returns:
        Whether it holds; False where the kernel lacks Landlock or has it switched off.

    Raises:
        OSError: the kernel has it, and refuses.
    """
    known = version()
    if known == 0:
        return False
    rights = (1 << _FILE_RIGHTS[max(least for least in _FILE_RIGHTS if least <= known)]) - 1
    attributes = struct.pack("QQQ", rights, _TCP, _SCOPES)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rights = _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno() or errno.EPERM
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
