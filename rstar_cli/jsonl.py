"""JSON lines: stream, write complete or absent, append and resume. Every refusal says file:line:field.

Reading accepts a byte-order mark, CRLF and blank lines; `-` is stdin or stdout. What is written is UTF-8, a row a line,
fields in the order of their declaration, so equal rows are equal bytes.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from rstar_cli.errors import DataError, StorageError

RowT = TypeVar("RowT", bound=BaseModel)

MAX_LINE = 64 * 1024 * 1024
"""Bytes of the longest line that is read or written; a longer one is a file of another kind."""

EXCERPT = 1000
"""Bytes that are kept of a line that is longer than `MAX_LINE`."""

_HOST = socket.gethostname() or "host"
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
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), then run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "choose another place: a part of the path is a file"),
}
_NO_NUMBER = re.compile(rb"NaN|Infinity")
_BIG_INTEGER = re.compile(rb"\d{19}")


class Digest(NamedTuple):
    """What a file holds: the SHA-256 of its bytes, in hex, and its number of lines."""

    sha256: str
    rows: int


class Aside(Protocol):
    """What becomes of a bad line."""

    def see(self, line: bytes | Mapping[str, object], /) -> None:
        """Is told of each line, or row of a table, before anything is asked of it."""
        ...

    def take(self, error: DataError, /) -> None:
        """Take the line that was seen last, and return where the reader shall go on with the next one."""
        ...


class _Strict:
    def see(self, line: bytes | Mapping[str, object], /) -> None:
        pass

    def take(self, error: DataError, /) -> None:
        raise error from None


STRICT = _Strict()
"""The first bad line is an error."""


def read_rows(path: Path | str, model: type[RowT], aside: Aside = STRICT) -> Iterator[RowT]:
    """Stream the rows of a file of ours, each validated.

    Args:
        path: the file, or `-` for stdin.
        model: the row's class.
        aside: takes bad lines.

    Raises:
        DataError: no such file, or a row that isn't one of `model`; names line and field.
        StorageError: the file can't be read.
    """
    for number, line in _lines(path, aside):
        try:
            if _NO_NUMBER.search(line):  # pydantic reads them, JSON has none
                parse_object(line, path, number)
            row = model.model_validate_json(line)
        except ValidationError as error:
            aside.take(_row_error(error, path, number, model))
        except DataError as error:
            aside.take(error)
        else:
            yield row


def parse_row(fields: Mapping[str, object], model: type[RowT], path: Path | str, number: int) -> RowT:
    """A row of ours from its fields.

    Raises:
        DataError: it is none; names path, line number and field.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _row_error(error, path, number, model) from None


def read_unique(path: Path | str, model: type[RowT], key: str) -> Iterator[RowT]:
    """As `read_rows`, of a file that has one row an id.

    Raises:
        DataError: an id is there twice; names both rows.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(read_rows(path, model), 1):
        name = getattr(row, key)
        if (first := seen.setdefault(name, number)) != number:
            why = f"{name!r} is the {key} of row {first}, too"
            raise DataError(why, path=_shown(path), line=number, field=key, remedy="remove one of the two rows")
        yield row


def read_objects(path: Path | str, aside: Aside = STRICT) -> Iterator[tuple[int, dict[str, object]]]:
    """Stream foreign rows: (line number from 1, JSON object).

    Integers keep every digit; other numbers are 64-bit floats.

    Args:
        path: the file, or `-` for stdin.
        aside: takes bad lines.

    Raises:
        DataError: no such file, or a line that isn't a JSON object.
        StorageError: the file can't be read.
    """
    for number, line in _lines(path, aside):
        try:
            row = parse_object(line, path, number)
        except DataError as error:
            aside.take(error)
        else:
            yield number, row


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
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.tmp")
    with storage_errors(path, "write"):
        if not through:
            _sweep(target)
        file = sys.stdout.buffer if str(path) == "-" else (target if through else temporary).open("wb")

    def write(data: bytes) -> None:
        with storage_errors(path, "write"):
            file.write(data)
            if through:
                file.flush()

    try:
        yield write
        if not through:
            with storage_errors(path, "write"):
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


def _sweep(target: Path) -> None:
    """Remove temporary files that killed processes of this machine left beside a file."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{glob.escape(_HOST)}.*.tmp"):
        owner = left.name.split(".")[-2]
        if owner.isdecimal() and int(owner) != os.getpid() and not _lives(int(owner)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def digest(path: Path | str) -> Digest:
    """SHA-256 and number of lines of a file.

    Raises:
        DataError: no such file.
        StorageError: the file can't be read.
    """
    sha, lines, last = hashlib.sha256(), 0, b"\n"
    with reading(path) as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return Digest(sha.hexdigest(), lines + (last != b"\n"))


def _lines(path: Path | str, aside: Aside) -> Iterator[tuple[int, bytes]]:
    """Lines that aren't blank, with their numbers from 1, stripped of white space and byte-order mark."""
    with reading(path) as file:
        for number in count(1):
            raw = file.readline(MAX_LINE + 1)
            if not raw:
                return
            if len(raw) > MAX_LINE:
                aside.see(raw[:EXCERPT])
                del raw
                why = f"the line is longer than {MAX_LINE:,} bytes"
                aside.take(DataError(why, path=_shown(path), line=number, remedy=_FORMAT))
                while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
            elif line := (raw.removeprefix(_BOM) if number == 1 else raw).strip():
                aside.see(raw)
                yield number, line


def parse_object(line: bytes, path: Path | str, number: int) -> dict[str, object]:
    """The JSON object on a line.

    Raises:
        DataError: there is none; names path and line number.
    """
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
def reading(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file for reading, `-` being stdin, which isn't closed."""
    with storage_errors(_shown(path), "read"):
        try:
            with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb") as file:
                yield file
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(error.strerror or str(error), path=path, remedy="check the path") from None


@contextmanager
def storage_errors(path: Path | str, doing: str) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that says what to do."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our stdout has enough: that is no fault of a disk
    except OSError as error:
        raise storage_error(path, doing, error) from error


def storage_error(path: Path | str, doing: str, error: OSError) -> StorageError:
    """What to tell of an `OSError` while something was done with a file."""
    remedy = _STORAGE_REMEDIES.get(error.errno or 0, "check the disk, then run the same command again")
    return StorageError(f"{path}: can't {doing} it: {error.strerror or error}", remedy=remedy)


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
