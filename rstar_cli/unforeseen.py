"""Exceptions of libraries and of the machine, told as errors of ours: what it is, and what helps."""

from __future__ import annotations

from rstar_cli.errors import MemoryFullError, RstarError, SetupError
from rstar_cli.jsonl import storage_error


def as_error(error: Exception) -> RstarError:
    """The error to tell of an exception: itself, or the nearest one of ours; a bug where there is none."""
    if isinstance(error, RstarError):
        return error
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0] or "a package"
        return SetupError(f"{name} can't be imported: {error}", remedy=f"Run: pip install {name}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MemoryFullError("the memory is full", remedy="Take less at once (--batch, --batch-tokens, --in-flight).")
    if isinstance(error, OSError) and error.errno:
        return storage_error(error.filename or "a file", "use", error)
    return RstarError(
        f"unforeseen: {type(error).__name__}: {error}",
        remedy="This is a bug. Run the command again with --debug, and report what it shows.",
    )
