"""Bad lines of a foreign input, set aside in a file beside the output: one of a million does not stop the rest."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import STRICT, Aside, dump, replacing, storage_errors


class Quarantine:
    """Takes the bad lines of one input and goes on (`--skip-bad-lines`).

    A row of its file has `line` (from 1), `field`, `reason`, and the line as it was: `text`, or `base64` where it is
    not UTF-8; of one that is longer than `MAX_LINE` the beginning. The file is there when the block ends well and a
    line was bad; what an earlier call left is removed.

    Args:
        path: the file; None: bad lines are only counted.

    Attributes:
        count: lines taken.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        self._line: bytes | Mapping[str, object] = b""
        self._stack = ExitStack()
        self._write: Callable[[bytes], object] = len

    def see(self, line: bytes | Mapping[str, object]) -> None:
        """Remember what stands on the line that was read last."""
        self._line = line

    def take(self, error: DataError) -> None:
        """Set the line that was read last aside.

        Raises:
            DataError: the error is no line's: the file itself can't be read.
            StorageError: the file can't be written.
        """
        if error.line is None:
            raise error
        if not self.count and self.path is not None:
            with storage_errors(self.path, "make"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write = self._stack.enter_context(replacing(self.path))
        self.count += 1
        self._write(dump({"line": error.line, "field": error.field, "reason": error.why, **_as_it_was(self._line)}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None and not self.count and self.path is not None:
            self.path.unlink(missing_ok=True)


def _as_it_was(line: bytes | Mapping[str, object]) -> dict[str, str]:
    if isinstance(line, Mapping):  # of a table: there is no text of it
        text = json.dumps(line, ensure_ascii=False, default=str)
        return {"text": text.encode("utf-8", "backslashreplace").decode()}
    bare = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return {"text": bare.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(bare).decode()}


def beside(output: Path | str) -> Path:
    """The quarantine's file beside an output: `rows.quarantine.jsonl` beside `rows.jsonl` or a folder `rows`."""
    path = Path(output)
    return path.with_name(f"{path.stem if path.suffix in ('.json', '.jsonl') else path.name}.quarantine.jsonl")


def open_aside(stack: ExitStack, wanted: bool, path: Path | None) -> Aside:
    """What takes bad lines: a quarantine, left with the stack, where it is wanted; else the first one is an error."""
    return stack.enter_context(Quarantine(path)) if wanted else STRICT


def counted(aside: Aside) -> dict[str, int]:
    """The number of bad lines that were set aside, for figures and manifests; empty where there are none."""
    return {"bad lines": aside.count} if isinstance(aside, Quarantine) and aside.count else {}


def notes(aside: Aside) -> list[str]:
    """The same as a sentence for the user."""
    if not isinstance(aside, Quarantine) or not aside.count:
        return []
    return [f"{aside.count:,} bad lines were set aside" + (f" in {aside.path}" if aside.path is not None else "") + "."]


def refuse_without(wanted: bool, source: object, flag: str) -> None:
    """Refuse `--skip-bad-lines` where a run's own artifacts are read: none of their rows may be passed over.

    Raises:
        UsageError: says which flag it goes with.
    """
    if wanted and source is None:
        raise UsageError(
            f"--skip-bad-lines goes with {flag}: rows of a run are never passed over",
            remedy=f"Give {flag}, or leave it out.",
        )
