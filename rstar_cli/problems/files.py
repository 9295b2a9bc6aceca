"""Problems from a file: rows read, fields named, duplicates merged, unusable rows left out, and all of that said."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rstar_cli.errors import DataError
from rstar_cli.problems.fields import Place, read_problem
from rstar_cli.problems.formats import read_file
from rstar_cli.records import Problem

logger = logging.getLogger(__name__)


def read_problems(
    path: Path | str, *, source: str | None = None, limit: int | None = None, require_answer: bool = True
) -> Iterator[Problem]:
    """Stream the problems of a `.json`, `.jsonl`, `.csv` or `.parquet` file (`fields` says how they are found).

    Rows that were left out or merged are logged as warnings at the end.

    Args:
        path: the file; `-` is JSON lines from stdin.
        source: name of the data set; None takes each row's own `source`, else the file's name.
        limit: stop after so many problems.
        require_answer: leave out problems whose answer is empty, and raise if all are.

    Raises:
        DataError: no such file, a row that can't be read, two rows of one id that differ, or no answer at all; names
            line and field.
        StorageError: the file can't be read.
    """
    rows = read_file(path)
    collector = Collector(path, source or "", "" if str(path) == "-" else Path(path).stem, require_answer)
    return collector.problems(rows, limit)


@dataclass(slots=True)
class Collector:
    """Makes rows problems, each id once, and keeps account of those that make none.

    Attributes:
        place: the file or data set, for messages.
        source: name of the data set; empty to take each row's own.
        default_source: name where a row has none.
        require_answer: leave out rows without an answer.
        keep_first: of problems with one id but different contents keep the first, rather than raise.
    """

    place: Path | str
    source: str
    default_source: str
    require_answer: bool = True
    keep_first: bool = False
    _seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _notes: dict[str, list[int]] = field(default_factory=dict)

    def problems(self, rows: Iterable[tuple[int, Mapping[str, object]]], limit: int | None) -> Iterator[Problem]:
        """Stream the problems of the rows, which are numbered from 1.

        Raises:
            DataError: see `read_problems`.
        """
        left = limit
        try:
            for line, row in rows if left is None or left > 0 else ():
                problem = read_problem(row, Place(self.place, line), self.source, self.default_source)
                if not self._wanted(problem, line):
                    continue
                yield problem
                if left is not None and not (left := left - 1):
                    return
            unanswered = self._notes.get(_UNANSWERED)
            if unanswered and not self._seen:
                raise DataError(
                    f"not one of {len(unanswered)} problems has an answer",
                    path=self.place,
                    line=unanswered[0],
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
        found = hashlib.blake2b(content.encode(), digest_size=16).digest()
        first, known = self._seen.setdefault(problem.id, (line, found))
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
        self._notes.setdefault(what, []).append(line)

    def _report(self) -> None:
        for what, lines in self._notes.items():
            shown = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
            logger.warning("%s: %d %s (line %s)", self.place, len(lines), what, shown)


_UNANSWERED = "without an answer left out"
_SEVERAL = "with several accepted answers: the first is the answer, all are in `answers`"
_REPEATED = "that repeat an earlier problem left out"
_CONFLICT = "that contradict an earlier problem left out"
