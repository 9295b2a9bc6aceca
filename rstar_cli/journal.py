"""A file that rows are appended to as they are finished, and that a killed run takes up again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from rstar_cli.errors import DataError, LockedError
from rstar_cli.jsonl import MAX_LINE, Digest, dump, parse_object, reading, replacing, storage_errors

FSYNC_SECONDS = 2.0
"""A journal's rows are on the disk at most this long after they were appended (if another append follows)."""


class Journal:
    """A file that rows are appended to as they are finished, and that a killed run takes up again.

    Each row is one `write()` to the end of the partial file, so a kill can tear the last row only. Opening cuts a torn
    row off and says which ids are done; `finish` writes the rows in canonical order, complete or absent. Only ids and
    byte offsets are held in memory. One process at a time: the file is locked while it is open.

    Args:
        path: the partial file, by convention `X.jsonl.partial`; made if absent.
        key: the field that identifies a row; a non-empty string, unique.

    Raises:
        DataError: a corrupt row that isn't the last one, a row without id, or an id twice.
        StorageError: the file can't be read or written.
    """

    def __init__(self, path: Path | str, key: str = "problem_id") -> None:
        self.path = Path(path)
        self.key = key
        self._rows: dict[str, tuple[int, int]] = {}
        with storage_errors(self.path, "write"):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._scan()
            with storage_errors(self.path, "write"):
                os.ftruncate(self._fd, self._end)
        except BlockingIOError:
            os.close(self._fd)
            raise LockedError(f"another process is at work on {self.path}", remedy="Let it end, or stop it.") from None
        except BaseException:
            os.close(self._fd)
            raise
        self._synced = time.monotonic()

    @property
    def done(self) -> set[str]:
        """Ids of the rows in the file."""
        return set(self._rows)

    def append(self, row: BaseModel | Mapping[str, object]) -> None:
        """Append one finished row.

        Raises:
            DataError: no id, an id that is done already, or a row that can't be written.
            StorageError: the write failed; the file is left as it was before.
        """
        fields = row if isinstance(row, Mapping) else {self.key: getattr(row, self.key, None)}
        name = self._identify(fields, None)
        line = dump(row)
        with storage_errors(self.path, "write"):
            try:
                written = os.write(self._fd, line)
                while written < len(line):  # a full disk gives a short write first, then an error
                    written += os.write(self._fd, line[written:])
            except BaseException:
                os.ftruncate(self._fd, self._end)
                raise
            self._rows[name] = (self._end, len(line))
            self._end += len(line)
            if time.monotonic() - self._synced >= FSYNC_SECONDS:
                os.fsync(self._fd)
                self._synced = time.monotonic()

    def read(self, name: str) -> bytes:
        """The line of a row that is in the file.

        Raises:
            StorageError: the file can't be read.
        """
        offset, length = self._rows[name]
        with storage_errors(self.path, "read"):
            return os.pread(self._fd, length, offset)

    def finish(self, order: Sequence[str], path: Path | str) -> Digest:
        """Write the rows of `order`, in that order, to the final file; then remove the partial one and close.

        Rows of other ids are left out.

        Raises:
            DataError: an id of `order` has no row.
            StorageError: the final file can't be written; the partial one is kept.
        """
        absent = next((name for name in order if name not in self._rows), None)
        if absent is not None:
            raise DataError(f"no row for {absent!r}", path=self.path, remedy="run the stage again to finish it")
        sha = hashlib.sha256()
        with replacing(path) as write:
            for name in order:
                line = self.read(name)
                sha.update(line)
                write(line)
        self.discard()
        return Digest(sha.hexdigest(), len(order))

    def discard(self) -> None:
        """Close the file and remove it: what it held stands elsewhere."""
        self.close()
        with storage_errors(self.path, "remove"):
            self.path.unlink()

    def close(self) -> None:
        """Sync to the disk and close; the partial file stays. May be called twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with storage_errors(self.path, "write"):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scan(self) -> int:
        """Index the rows; the offset where whole rows end."""
        offset = 0
        with reading(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                end = offset + len(line)
                if not line.endswith(b"\n") and end == size:
                    return offset
                try:
                    fields = parse_object(line, self.path, number)
                except DataError as error:
                    if end == size:  # whole by its newline, yet unreadable: a crash may leave blocks unwritten
                        return offset
                    error.remedy = f"delete line {number}; its problem is then done again"
                    raise
                self._rows[self._identify(fields, number)] = (offset, len(line))
                offset = end
        return offset

    def _identify(self, fields: Mapping[str, object], number: int | None) -> str:
        name = fields.get(self.key)
        if not isinstance(name, str) or not name:
            why = "has no id" if name is None else "must be a non-empty string"
            raise DataError(why, path=self.path, line=number, field=self.key, remedy="delete the row")
        if name in self._rows:
            raise DataError(f"{name!r} is there already", path=self.path, line=number, field=self.key)
        return name
