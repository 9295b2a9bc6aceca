"""Problems from a file: rows read, fields named, duplicates merged, unusable rows left out, and all of that said."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rstar_cli.errors import DataError
from rstar_cli.jsonl import STRICT, Aside
from rstar_cli.problems.fields import Place, read_problem
from rstar_cli.problems.formats import read_file
from rstar_cli.records import Problem

logger = logging.getLogger(__name__)


def read_problems(
    path: Path | str,
    *,
    source: str | None = None,
    limit: int | None = None,
    require_answer: bool = True,
    aside: Aside = STRICT,
) -> Iterator[Problem]:
    """Stream the problems of a `.json`, `.jsonl`, `.csv` or `.parquet` file (`fields` says how they are found).

    Rows that were left out or merged are logged as warnings at the end.

    Args:
        path: the file; `-` is JSON lines from stdin.
        source: name of the data set; None takes each row's own `source`, else the file's name.
        limit: stop after so many problems.
        require_answer: leave out problems whose answer is empty, and raise if all are.
        aside: takes bad lines.

    Raises:
        DataError: no such file, a row that can't be read, two rows of one id that differ, or no answer at all; names
            line and field.
        StorageError: the file can't be read.
    """
    rows = read_file(path, aside)
    default = "" if str(path) == "-" else Path(path).stem
    collector = Collector(path, source or "", default, require_answer, aside=aside)
    return collector.problems(rows, limit)


@dataclass(slots=True)
class Collector:
    """Makes rows problems, each id once, and keeps account of those that make none.

    Of a row it holds some 150 bytes: a digest of its id, its line, and a digest of what it says.

    Attributes:
        place: the file or data set, for messages.
        source: name of the data set; empty to take each row's own.
        default_source: name where a row has none.
        require_answer: leave out rows without an answer.
        keep_first: of problems with one id but different contents keep the first, rather than raise.
        aside: takes bad rows.
    """

    place: Path | str
    source: str
    default_source: str
    require_answer: bool = True
    keep_first: bool = False
    aside: Aside = STRICT
    _seen: dict[bytes, int] = field(default_factory=dict)
    _notes: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def problems(self, rows: Iterable[tuple[int, Mapping[str, object]]], limit: int | None) -> Iterator[Problem]:
        """Stream the problems of the rows, which are numbered from 1.

        Raises:
            DataError: see `read_problems`.
        """
        left = limit
        try:
            for line, row in rows if left is None or left > 0 else ():
                try:
                    problem = read_problem(row, Place(self.place, line), self.source, self.default_source)
                    wanted = self._wanted(problem, line)
                except DataError as error:
                    self.aside.take(error)
                    continue
                if not wanted:
                    continue
                yield problem
                if left is not None and not (left := left - 1):
                    return
            unanswered, lines = self._notes.get(_UNANSWERED, (0, []))
            if unanswered and not self._seen:
                raise DataError(
                    f"not one of {unanswered} problems has an answer",
                    path=self.place,
                    line=lines[0],
                    field="answer",
                    remedy="give a file with answers",
                )
        finally:
            self._report()

    def _wanted(self, problem: Problem, line: int) -> bool:
        if self.require_answer and not problem.answer:
            self._note(_UNANSWERED, line)
            return False
        content = f"{' '.join(problem.problem.split())}\0{problem.answer}"
        found = int.from_bytes(_digest(content)[:8])
        kept = self._seen.setdefault(_digest(problem.id), line << 64 | found)
        first, known = kept >> 64, kept & (2**64 - 1)
        if first == line:
            if "answers" in (problem.model_extra or {}):
                self._note(_SEVERAL, line)
            return True
        if known != found and not self.keep_first:
            raise DataError(
                f"{problem.id!r} is also the id of line {first}, with another problem or answer",
                path=self.place,
                line=line,
                field="id",
                remedy="give each problem an id of its own, or remove one of them",
            )
        self._note(_REPEATED if known == found else _CONFLICT, line)
        return False

    def _note(self, what: str, line: int) -> None:
        number, lines = self._notes.get(what, (0, []))
        self._notes[what] = number + 1, lines if len(lines) == SHOWN else [*lines, line]

    def _report(self) -> None:
        for what, (number, lines) in self._notes.items():
            shown = ", ".join(map(str, lines)) + (", ..." if number > SHOWN else "")
            logger.warning("%s: %d %s (line %s)", self.place, number, what, shown)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


SHOWN = 5
"""Lines that a warning names."""


_UNANSWERED = "without an answer left out"
_SEVERAL = "with several accepted answers: the first is the answer, all are in `answers`"
_REPEATED = "that repeat an earlier problem left out"
_CONFLICT = "that contradict an earlier problem left out"
