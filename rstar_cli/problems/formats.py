"""Rows of a file of any known format: (line from 1, fields), one after the other.

Only a `.json` file is held in memory as text (its rows are not). In a parquet file the line is the row's number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TextIO

from rstar_cli.errors import DataError, StorageError, did_you_mean
from rstar_cli.jsonl import MAX_LINE, STRICT, Aside, read_objects

Rows = Iterator[tuple[int, dict[str, object]]]


def read_file(path: Path | str, aside: Aside = STRICT) -> Rows:
    """Stream the rows of a file, by its suffix; `-` is JSON lines from stdin.

    Args:
        path: the file.
        aside: takes bad lines, where those after them can be read nonetheless.

    Raises:
        DataError: an unknown suffix, no such file, or a file that isn't of its format; names the line.
        StorageError: the file can't be read.
    """
    if str(path) == "-":
        return read_objects(path, aside)
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        what = f"unknown file type {path.suffix!r}" if path.suffix else "a file without a suffix"
        raise DataError(what, path=path, remedy=did_you_mean(path.suffix.lower(), list(READERS)))
    if not path.is_file():
        raise DataError("is a folder" if path.is_dir() else "no such file", path=path, remedy="check the path")
    return _guarded(path, reader, aside)


def _guarded(path: Path, reader: Callable[[Path, Aside], Rows], aside: Aside) -> Rows:
    rows = reader(path, aside)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error.reason}", path=path, remedy="save the file as UTF-8") from None
        except OSError as error:
            raise StorageError(f"{path}: can't read it: {error.strerror or error}", remedy="check the file") from error
        yield row


def _read_json(path: Path, aside: Aside) -> Rows:
    """An array of objects, an object with such an array under `data`, or JSON lines by another name."""
    text = path.read_text(encoding="utf-8-sig")
    scanner = _Scanner(text, path, aside)
    if scanner.accept("["):
        yield from scanner.objects()
        if not scanner.at_end():
            raise scanner.error("more text after the array")
    elif scanner.accept("{"):
        if scanner.seek_key("data"):
            yield from scanner.objects()
        else:
            yield from _Scanner(text, path, aside).objects(bare=True)
    elif not scanner.at_end():
        raise scanner.error("neither an array nor an object")


class _Scanner:
    """Walks through a JSON text value by value, so that each row is known by its line and dropped after use."""

    def __init__(self, text: str, path: Path, aside: Aside) -> None:
        self.text = text
        self.path = path
        self.aside = aside
        self.position = 0
        self.counted = 0
        self.line = 1
        self.decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def objects(self, *, bare: bool = False) -> Rows:
        """The objects of an array whose bracket was read; with `bare`, one object after the other to the end."""
        while not (self.at_end() if bare else self.accept("]")):
            line = self.current_line()
            self.at_end()
            start, value = self.position, self.value()
            self.aside.see(self.text[start : self.position].encode("utf-8", "backslashreplace"))
            if isinstance(value, dict):
                yield line, value
            else:
                why = "not a JSON object"
                self.aside.take(DataError(why, path=self.path, line=line, remedy="every row must be an object"))
            if not bare and not self.accept(",") and self.text[self.position : self.position + 1] != "]":
                raise self.error("expected , or ] after a row")

    def seek_key(self, wanted: str) -> bool:
        """In an object whose brace was read, go to the array under a key; whether there is one."""
        while not self.accept("}"):
            key = self.value()
            if not self.accept(":"):
                raise self.error("expected : after a key")
            if key == wanted and self.accept("["):
                return True
            self.value()
            self.accept(",")
        return False

    def value(self) -> object:
        self.at_end()
        start = self.position
        try:
            value, self.position = self.decoder.raw_decode(self.text, start)
            if "\\ud" in self.text[start : self.position].lower():
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            self.position = error.pos
            raise self.error(error.msg) from None
        except (ValueError, RecursionError) as error:  # half a surrogate pair, NaN, a number or nest without end
            raise self.error(str(error)) from None
        return value

    def accept(self, mark: str) -> bool:
        if self.at_end() or self.text[self.position] != mark:
            return False
        self.position += 1
        return True

    def at_end(self) -> bool:
        """Pass over white space; whether nothing follows it."""
        while self.text[self.position : self.position + 1] in _SPACE:
            self.position += 1
        return self.position >= len(self.text)

    def current_line(self) -> int:
        self.at_end()
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def error(self, why: str) -> DataError:
        return DataError(f"not valid JSON: {why}", path=self.path, line=self.current_line(), remedy=_JSON_REMEDY)


_SPACE = frozenset(" \t\r\n")
_JSON_REMEDY = "a .json file is an array of objects, or an object with such an array under `data`"


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _read_csv(path: Path, aside: Aside) -> Rows:
    csv.field_size_limit(MAX_LINE)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_bounded(file, path), strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError("a column is there twice", path=path, line=1, remedy="name each column once")
            line = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(header):
                    aside.see({"fields": values})
                    why = f"{len(values)} fields under {len(header)} columns"
                    remedy = "quote fields that hold commas or line breaks"
                    aside.take(DataError(why, path=path, line=line, remedy=remedy))
                elif values:
                    row: dict[str, object] = dict(zip(header, values, strict=True))
                    aside.see(row)
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"not valid CSV: {error}", path=path, line=reader.line_num) from None


def _bounded(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file; one without end is refused before all of it is read."""
    for number in count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE:
            raise DataError(f"the line is longer than {MAX_LINE:,} characters", path=path, line=number)
        yield line


def _read_parquet(path: Path, aside: Aside) -> Rows:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    aside.see(row)
                    yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"not a readable parquet file: {error}", path=path, line=number or None) from None


READERS: dict[str, Callable[[Path, Aside], Rows]] = {
    ".json": _read_json,
    ".jsonl": read_objects,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""The reader of each suffix."""
