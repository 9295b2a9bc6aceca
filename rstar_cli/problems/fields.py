r"""One row of anybody's data set, made a `Problem`: which field is the problem, which the answer, what is kept.

=========  ==============================================================================================
problem    `problem`, `question`, `prompt`, `query`
answer     `answer`, `final_answer`, `expected_answer`, `ground_truth`; else the last `\boxed{}` of `solution`
id         `id`, `unique_id`, `problem_id`; else the number in `index` or `idx`, else a hash of the text
level      `level`, `difficulty`, where it is a whole number from 1: `Level 5`, `5`, `5.0`
subject    `subject`, `type`
=========  ==============================================================================================

Names are taken in this order, upper or lower case; fields without a value are passed over, and a level or subject that
is none. All other fields are kept.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path

from rstar_cli.errors import DataError
from rstar_cli.prompts import last_boxed
from rstar_cli.records import Problem

PROBLEM = ("problem", "question", "prompt", "query")
ANSWER = ("answer", "final_answer", "expected_answer", "ground_truth")
SOLUTION = ("solution",)
ID = ("id", "unique_id", "problem_id")
NUMBER = ("index", "idx")
LEVEL = ("level", "difficulty")
SUBJECT = ("subject", "type")

_THOUSANDS = re.compile(r"[-+]?\$?\d{1,3}(,\d{3})+(\.\d+)?")
_LEVEL = re.compile(r"(?:level\s*)?(\d{1,3})(?:\.0+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands, for messages: the file or data set, and the line from 1."""

    path: Path | str
    line: int


def read_problem(row: Mapping[str, object], place: Place, source: str = "", default_source: str = "") -> Problem:
    """Make a row a `Problem`.

    Args:
        row: field names and values, as the file has them.
        place: where the row stands.
        source: name of the data set; empty to take the row's own `source`.
        default_source: name where the row has none.

    Returns:
        The problem. Its answer is empty where the row has a field for it but no value in it. Of several accepted
        answers it has the first; all of them are kept in the extra field `answers`.

    Raises:
        DataError: no field for the problem or the answer, no text in the problem, or an answer that is no text, number
            or list of them.
    """
    fields = _Fields(row, place)
    text = fields.take_text(PROBLEM)
    answers, worked = _answers(fields)
    name = source or fields.take_optional(("source",)) or default_source
    values: dict[str, object] = {
        "id": _identify(fields, name, text),
        "problem": text,
        "answer": answers[0] if answers else "",
        "source": name,
        "level": fields.take_level(),
        "subject": fields.take_optional(SUBJECT),
    }
    extras = fields.rest()
    if len(answers) > 1:
        extras.setdefault("answers", answers)
    if worked:
        extras.setdefault("solution", worked)
    for key, value in extras.items():
        while key in values:
            key = f"original_{key}"
        values[key] = value
    return Problem.model_validate(values)


class _Fields:
    """A row from which known fields are taken; what is left is kept as it is."""

    def __init__(self, row: Mapping[str, object], place: Place) -> None:
        self.place = place
        self.left = {key: value for key, value in row.items() if not _is_blank(value)}
        self.names = {key.lower() for key in row}

    def find(self, names: Sequence[str]) -> str | None:
        """The first of these fields that has a value."""
        return next(self._all(names), None)

    def _all(self, names: Sequence[str]) -> Iterator[str]:
        """Those of these fields that have a value."""
        for name in names:
            yield from sorted((key for key in self.left if key.lower() == name), key=lambda key: key != name)

    def take_text(self, names: Sequence[str]) -> str:
        key = self.find(names)
        if key is None:
            why = f"{names[0]} is empty" if self.names.intersection(names) else f"no {names[0]}"
            raise self.error(why, names[0], _looked_for(names))
        value = self.left.pop(key)
        if not isinstance(value, str):
            raise self.error(f"must be text, not {type(value).__name__}", key, "")
        return value.strip()

    def take_optional(self, names: Sequence[str]) -> str | None:
        """The first text, or None; what is no text stays where it is."""
        key = next((key for key in self._all(names) if isinstance(self.left[key], str)), None)
        return str(self.left.pop(key)).strip() if key is not None else None

    def take_level(self) -> int | None:
        """The first level, or None; what is none stays where it is."""
        key = next((key for key in self._all(LEVEL) if _level(self.left[key]) is not None), None)
        return _level(self.left.pop(key)) if key is not None else None

    def rest(self) -> dict[str, object]:
        plain = {key: _plain(value) for key, value in self.left.items()}
        return {key: value for key, value in plain.items() if value is not None}

    def error(self, why: str, field: str, remedy: str) -> DataError:
        return DataError(why, path=self.place.path, line=self.place.line, field=field, remedy=remedy)


def _answers(fields: _Fields) -> tuple[list[str], str]:
    """The accepted answers, and the worked solution that they were cut out of, if they were."""
    key = fields.find(ANSWER)
    if key is None:
        return _answer_of_solution(fields), ""
    value = fields.left.pop(key)
    try:
        given = [_answer_text(item) for item in (value if isinstance(value, list | tuple) else [value])]
    except ValueError as error:
        raise fields.error(str(error), key, "an answer is a text, a number, or a list of them") from None
    answers = [answer for text in given if (answer := final_answer(text))]
    worked = given[0] if len(given) == 1 and given != answers and len(given[0].split()) > 1 else ""
    return answers, worked


def _answer_of_solution(fields: _Fields) -> list[str]:
    key = fields.find(SOLUTION)
    solution = fields.left[key] if key else ""
    if not fields.names.intersection(ANSWER + SOLUTION):
        raise fields.error("no answer", "answer", _looked_for((*ANSWER, "solution (its last \\boxed{})")))
    boxed = last_boxed(solution) if isinstance(solution, str) else None
    return [boxed] if boxed else []


def final_answer(text: str) -> str:
    r"""The answer alone: what follows GSM8K's `####`, or the last `\boxed{}`, of a worked solution."""
    if "####" in text:
        tail = text.rsplit("####", 1)[1].strip().split("\n", 1)[0].strip()
        return tail.replace(",", "") if _THOUSANDS.fullmatch(tail) else tail
    return (last_boxed(text) if r"\boxed{" in text else None) or text


def _answer_text(value: object) -> str:
    """An answer as text, every digit kept and none added: 18.0 is `18`, 1e-7 is `0.0000001`.

    Raises:
        ValueError: neither text nor a finite number.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        value = Decimal(int(value)) if value.is_integer() else Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    raise ValueError(f"must be a text or a finite number, not {type(value).__name__} {str(value)[:40]}")


def _identify(fields: _Fields, source: str, text: str) -> str:
    prefix = source or "problem"
    for names, form in ((ID, "{}"), (NUMBER, prefix + "-{}")):  # a row's number alone is unique in its file only
        key = fields.find(names)
        value = fields.left[key] if key else None
        if key is not None and isinstance(value, str | int | float | Decimal):
            del fields.left[key]
            return form.format(_answer_text(value))
    return f"{prefix}-{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:12]}"


def _level(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    found = _LEVEL.fullmatch(str(value).strip())
    return (int(found[1]) or None) if found else None


def _is_blank(value: object) -> bool:
    """Whether a field holds nothing: null, an empty text or list, or the NaN that tables write for null."""
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], ())


def _plain(value: object) -> object:
    """A value that JSON can hold; None for what it can't (images, bytes)."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else None


def _looked_for(names: Sequence[str]) -> str:
    return f"looked for {', '.join(names)}; rename the field that holds it"
