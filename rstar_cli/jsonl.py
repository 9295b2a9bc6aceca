"""JSON lines: stream, write complete or absent, append and resume. Every refusal says file:line:field.

Reading accepts a byte-order mark, CRLF and blank lines; `-` is stdin or stdout. What is written is UTF-8, a row a line,
fields in the order of their declaration, so equal rows are equal bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from rstar_cli.errors import DataError, StorageError

RowT = TypeVar("RowT", bound=BaseModel)

MAX_LINE = 64 * 1024 * 1024
"""Bytes of the longest line that is read or written; a longer one is a file of another kind."""

FSYNC_SECONDS = 2.0
"""A journal's rows are on the disk at most this long after they were appended (if another append follows)."""

_BOM = b"\xef\xbb\xbf"
_FORMAT = "every line must be one JSON object, in UTF-8; give a JSON array the suffix .json"
_ROW_REMEDIES = {
    "json_invalid": _FORMAT,
    "missing": "add the field, or check that this is the right kind of file",
    "extra_forbidden": "remove the field, or check that this is the right kind of file",
}
_STORAGE_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then run the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check the permissions, or choose another place"),
    errno.ENOENT: "make the folder first",
}
_BIG_INTEGER = re.compile(rb"\d{19}")


class Digest(NamedTuple):
    """What a file holds: the SHA-256 of its bytes, in hex, and its number of lines."""

    sha256: str
    rows: int


def read_rows(path: Path | str, model: type[RowT]) -> Iterator[RowT]:
    """Stream the rows of a file of ours, each validated.

    Args:
        path: the file, or `-` for stdin.
        model: the row's class.

    Raises:
        DataError: no such file, or a row that isn't one of `model`; names line and field.
        StorageError: the file can't be read.
    """
    for number, line in _lines(path):
        try:
            yield model.model_validate_json(line)
        except ValidationError as error:
            raise _row_error(error, path, number, model) from None


def read_objects(path: Path | str) -> Iterator[tuple[int, dict[str, object]]]:
    """Stream foreign rows: (line number from 1, JSON object).

    Integers keep every digit; other numbers are 64-bit floats.

    Args:
        path: the file, or `-` for stdin.

    Raises:
        DataError: no such file, or a line that isn't a JSON object.
        StorageError: the file can't be read.
    """
    for number, line in _lines(path):
        yield number, _parse_object(line, path, number)


def dump(row: BaseModel | Mapping[str, object]) -> bytes:
    """One line of JSON with its newline.

    Raises:
        DataError: NaN or an infinity, text that isn't Unicode, or a row longer than `MAX_LINE`.
    """
    fields = row.model_dump(mode="json") if isinstance(row, BaseModel) else dict(row)
    try:
        # not orjson: it writes NaN as null and refuses integers beyond 64 bits
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = text.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise DataError(f"text that isn't Unicode ({error.reason}) can't be written") from None
    except (ValueError, RecursionError) as error:
        found = next(_non_finite(fields, ""), None) if isinstance(error, ValueError) else None
        raise DataError(f"a row can't be written as JSON: {error}", field=found) from None
    if len(line) > MAX_LINE:
        raise DataError(f"a row of {len(line):,} bytes is longer than the {MAX_LINE:,} that can be read back")
    return line


def write_rows(path: Path | str, rows: Iterable[BaseModel | Mapping[str, object]]) -> int:
    """Write a file, complete or absent; to stdout (`-`) and devices row by row, flushed after each.

    Args:
        path: the file, or `-` for stdout. An old file stays as it is until the new one is whole.
        rows: consumed once, never held.

    Returns:
        How many rows were written.

    Raises:
        DataError: a row can't be written (see `dump`).
        StorageError: the file can't be written.
    """
    count = 0
    with replacing(path) as write:
        for row in rows:
            write(dump(row))
            count += 1
    return count


@contextmanager
def replacing(path: Path | str) -> Iterator[Callable[[bytes], None]]:
    """Give a function that writes bytes; when the block ends well they stand at `path`, else nothing has changed there.

    The bytes go to a temporary file beside it, which is synced and renamed. What is no regular file (stdout as `-`,
    a pipe, a device) can't be replaced and is written and flushed piece by piece.

    Raises:
        StorageError: the file can't be written.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    through = str(path) == "-" or (target.exists() and not target.is_file())
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with _storage(path, "write"):
        file = sys.stdout.buffer if str(path) == "-" else (target if through else temporary).open("wb")

    def write(data: bytes) -> None:
        with _storage(path, "write"):
            file.write(data)
            if through:
                file.flush()

    try:
        yield write
        if not through:
            with _storage(path, "write"):
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(target)
                _sync_directory(target.parent)
    finally:
        if str(path) != "-":
            with suppress(OSError):  # flushed above; after an error, that error is the one to report
                file.close()
        if not through:
            temporary.unlink(missing_ok=True)


def digest(path: Path | str) -> Digest:
    """SHA-256 and number of lines of a file.

    Raises:
        DataError: no such file.
        StorageError: the file can't be read.
    """
    sha, lines, last = hashlib.sha256(), 0, b"\n"
    with _reading(path) as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return Digest(sha.hexdigest(), lines + (last != b"\n"))


class Journal:
    """A file that rows are appended to as they are finished, and that a killed run takes up again.

    Each row is one `write()` to the end of the partial file, so a kill can tear the last row only. Opening cuts a torn
    row off and says which ids are done; `finish` writes the rows in canonical order, complete or absent. Only ids and
    byte offsets are held in memory. One process at a time (the caller holds the stage's lock).

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
        with _storage(self.path, "write"):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._end = self._scan()
            with _storage(self.path, "write"):
                os.ftruncate(self._fd, self._end)
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
        with _storage(self.path, "write"):
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
                offset, length = self._rows[name]
                with _storage(self.path, "read"):
                    line = os.pread(self._fd, length, offset)
                sha.update(line)
                write(line)
        self.close()
        with _storage(self.path, "remove"):
            self.path.unlink()
        return Digest(sha.hexdigest(), len(order))

    def close(self) -> None:
        """Sync to the disk and close; the partial file stays. May be called twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with _storage(self.path, "write"):
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
        with _reading(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                end = offset + len(line)
                if not line.endswith(b"\n") and end == size:
                    return offset
                try:
                    fields = _parse_object(line, self.path, number)
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


def _lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Lines that aren't blank, with their numbers from 1, stripped of white space and byte-order mark."""
    with _reading(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(raw) > MAX_LINE:
                why = f"the line is longer than {MAX_LINE:,} bytes"
                raise DataError(why, path=_shown(path), line=number, remedy=_FORMAT)
            if line := (raw.removeprefix(_BOM) if number == 1 else raw).strip():
                yield number, line


def _parse_object(line: bytes, path: Path | str, number: int) -> dict[str, object]:
    try:
        value = orjson.loads(line)
        if _BIG_INTEGER.search(line):  # orjson makes floats of integers beyond 64 bits
            value = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON: {why}", path=_shown(path), line=number, remedy=_FORMAT) from None
    if not isinstance(value, dict):
        kind = {"list": "an array", "str": "a string", "NoneType": "null"}.get(type(value).__name__, "a plain value")
        raise DataError(f"{kind}, not a JSON object", path=_shown(path), line=number, remedy=_FORMAT)
    return value


def _row_error(error: ValidationError, path: Path | str, number: int, model: type[BaseModel]) -> DataError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    remedy = _ROW_REMEDIES.get(first["type"], "correct the field, or make the file again")
    why = f"not a {model.__name__} row: {first['msg']}"
    return DataError(why, path=_shown(path), line=number, field=field, remedy=remedy)


def _non_finite(value: object, place: str) -> Iterator[str]:
    """Paths of the numbers in a row that JSON can't hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _non_finite(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{place}.{index}".lstrip("."))


def _shown(path: Path | str) -> Path | str:
    return "<stdin>" if str(path) == "-" else path


@contextmanager
def _reading(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file for reading, `-` being stdin, which isn't closed."""
    with _storage(_shown(path), "read"):
        try:
            with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb") as file:
                yield file
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(error.strerror or str(error), path=path, remedy="check the path") from None


@contextmanager
def _storage(path: Path | str, doing: str) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = _STORAGE_REMEDIES.get(error.errno or 0, "check the disk, then run the same command again")
        raise StorageError(f"{path}: can't {doing} it: {error.strerror or error}", remedy=remedy) from error


def _sync_directory(path: Path) -> None:
    """Make a rename last; some file systems can't and say so."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
