"""Problems out of files, for any content: formats agree, nothing is lost, what is read once reads the same again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from rstar_cli.errors import DataError
from rstar_cli.jsonl import write_rows
from rstar_cli.problems.fields import ANSWER, ID, LEVEL, PROBLEM, SUBJECT, Place, read_problem
from rstar_cli.problems.files import read_problems
from rstar_cli.records import Problem

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUE = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=2)
NAMES = st.sampled_from([*PROBLEM, *ANSWER, *ID, *LEVEL, *SUBJECT, "solution", "source", "index", "answers", "Answer"])
FOREIGN = st.dictionaries(NAMES | TEXT, VALUE, max_size=6)
FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


Found = TypeVar("Found")


def attempt(call: Callable[[], Found]) -> Found | DataError:
    """What a call returns, or the refusal that it raises; anything else is a bug and comes through."""
    try:
        return call()
    except DataError as error:
        return error


@given(row=FOREIGN)
def test_any_object_is_a_problem_or_is_refused_by_its_place(row: dict[str, object]) -> None:
    found = attempt(lambda: read_problem(row, Place("x", 3)))
    if isinstance(found, DataError):
        assert (found.path, found.line) == ("x", 3)
        assert found.field is not None
    else:
        assert found.problem
        assert found.id


@example(row={"subject": False, "type": "0"}, problem="0", answer="0")
@example(row={"level": "none", "difficulty": 2}, problem="0", answer="0")
@example(row={"subject": 1, "SUBJECT": "x"}, problem="0", answer="0")
@given(row=FOREIGN, problem=TEXT, answer=TEXT)
@FILES
def test_what_was_read_reads_the_same_again(tmp_path: Path, row: dict[str, object], problem: str, answer: str) -> None:
    """Import is idempotent, so a pool written by `problems import` can be imported again."""
    first = attempt(lambda: read_problem({**row, "problem": problem, "answer": answer}, Place("x", 1), "here"))
    assume(isinstance(first, Problem))
    file = tmp_path / "ours.jsonl"
    write_rows(file, [first])
    again = list(read_problems(file, require_answer=False))
    assert again == [first]
    assert list(read_problems(file, require_answer=False)) == again


@given(number=st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_numbers_become_text_of_the_same_value(number: object) -> None:
    from decimal import Decimal

    problem = read_problem({"question": "q", "answer": number}, Place("x", 1))
    assert Decimal(problem.answer) == number
    assert "e" not in problem.answer.lower()


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_become_text_of_the_same_value(number: float) -> None:
    problem = read_problem({"question": "q", "answer": number}, Place("x", 1))
    assert float(problem.answer) == number
    assert "e" not in problem.answer.lower()


@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5, unique_by=lambda row: row[0].strip()),
    problem_name=st.sampled_from(PROBLEM),
    answer_name=st.sampled_from(ANSWER),
    indent=st.sampled_from([None, 0, 2]),
)
@FILES
def test_all_formats_agree(
    tmp_path: Path, rows: list[tuple[str, str, str]], problem_name: str, answer_name: str, indent: int | None
) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = ["id", problem_name, answer_name]
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    (tmp_path / "x.json").write_text(json.dumps(objects, indent=indent), encoding="utf-8")
    (tmp_path / "y.json").write_text(json.dumps({"n": 1, "data": objects}, ensure_ascii=False), encoding="utf-8")
    write_rows(tmp_path / "x.jsonl", objects)
    with (tmp_path / "x.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects, schema), tmp_path / "x.parquet")

    def read(name: str) -> list[Problem]:
        return list(read_problems(tmp_path / name, source="s", require_answer=False))

    expected = read("x.jsonl")
    assert [p.id for p in expected] == [row[0].strip() for row in rows]
    for name in ("x.json", "y.json", "x.csv", "x.parquet"):
        assert read(name) == expected


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".json", ".jsonl", ".csv", ".parquet"]))
@FILES
def test_any_bytes_are_problems_or_a_data_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(data)
    found = attempt(lambda: list(read_problems(file)))
    if isinstance(found, DataError):
        assert found.path == file
    else:
        assert all(problem.answer for problem in found)


@given(cut=st.integers(min_value=0))
@FILES
def test_a_torn_json_file_never_passes_for_a_whole_one(tmp_path: Path, cut: int) -> None:
    whole = json.dumps([{"problem": f"p{i}", "answer": str(i)} for i in range(4)], indent=1)
    file = tmp_path / "x.json"
    file.write_text(whole[: 1 + cut % (len(whole) - 1)])
    with pytest.raises(DataError):
        list(read_problems(file))
