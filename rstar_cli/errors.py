"""The exception tree. Each class carries the exit code that the command line ends with.

::

    RstarError                    1   a bug, or anything unforeseen
    ├── UsageError                2   wrong flags, or flags that exclude each other
    ├── DataError                 3   a bad row or file: says file:line:field
    │   └── MissingArtifactError  3   a stage's input is absent: names the command that makes it
    ├── ConfigMismatchError       4   the config differs from the one that the run was made with
    ├── SetupError                5   a package, device, model or hub that is not there
    │   └── MemoryFullError       5   the memory of a device is full
    ├── LockedError               6   another process works on the same stage
    └── StorageError              8   a file can't be written or read

Exit code 7 (done in part) and 130 / 143 (interrupted) are outcomes, not errors; ``cli.py`` gives them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from rstar_cli.redact import redacted


class RstarError(Exception):
    """Anything that `rstar` reports without a traceback. No secret is in its text.

    Args:
        message: what went wrong and where, one sentence.
        remedy: what the user can do about it, one sentence; empty if there is nothing to say.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(redacted(message))
        self.remedy = remedy


class UsageError(RstarError):
    """Wrong flags, or flags that exclude each other."""

    exit_code = 2


class DataError(RstarError):
    """A bad row or file.

    Args:
        message: why the data is refused.
        path: the file.
        line: the line in it, from 1.
        field: the field in the row.
        remedy: what the user can do about it.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str = "",
    ) -> None:
        place = ":".join(str(part) for part in (path, line, field) if part is not None)
        super().__init__(f"{place}: {message}" if place else message, remedy=remedy)
        self.why = message
        self.path = path
        self.line = line
        self.field = field


class MissingArtifactError(DataError):
    """A stage's input is absent; the remedy names the command that makes it."""


class ConfigMismatchError(RstarError):
    """The config differs from the one that the run was made with."""

    exit_code = 4


class SetupError(RstarError):
    """A package, device, model or hub that is not there."""

    exit_code = 5


class MemoryFullError(SetupError):
    """The memory of a device is full."""


class LockedError(RstarError):
    """Another process works on the same stage of the same run."""

    exit_code = 6


class StorageError(RstarError):
    """A file can't be written or read (disk full, read-only, permissions)."""

    exit_code = 8


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A sentence with the nearest known word, or the list of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
