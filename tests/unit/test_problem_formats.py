"""The formats that problems are read from: JSON, JSONL, CSV, parquet, stdin."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest

from rstar_cli.errors import DataError, StorageError
from rstar_cli.jsonl import write_rows
from rstar_cli.problems.files import read_problems
from rstar_cli.problems.sources import resolve
from tests.unit.test_problem_files import extras

ROWS = [{"id": "a", "problem": 'Say "hi",\nplease', "answer": "1"}, {"id": "b", "problem": "Übung", "answer": "2"}]


class TestFormats:
    def wrong(self, file: Path) -> DataError:
        with pytest.raises(DataError) as caught:
            list(read_problems(file))
        assert caught.value.path == file
        return caught.value

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps(ROWS),
            json.dumps(ROWS, indent=2, ensure_ascii=False),
            "\ufeff" + json.dumps(ROWS),
            json.dumps({"version": [1, {"data": []}], "data": ROWS, "more": {}}, indent=1),
            "\n".join(json.dumps(row) for row in ROWS),
            json.dumps(ROWS[0], indent=2) + "\n" + json.dumps(ROWS[1], indent=2),
        ],
    )
    def test_json(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "x.json"
        file.write_text(text, encoding="utf-8")
        assert [(p.id, p.problem, p.answer) for p in read_problems(file)] == [tuple(row.values()) for row in ROWS]

    @pytest.mark.parametrize("text", ["", "[]", ' {"data": []}', "{}"])
    def test_json_without_rows(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "x.json"
        file.write_text(text)
        if text == "{}":
            assert self.wrong(file).field == "problem"
        else:
            assert list(read_problems(file)) == []

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ('[\n{"problem": "a", "answer": "1"},\n{"problem": 3, "answer": "1"}]', 3, "must be text"),
            ('[\n{"problem": "a", "answer": "1"},\n7]', 3, "not a JSON object"),
            ('[\n{"problem": "a", "answer": "1"}\n{}]', 3, "expected , or ]"),
            ('[\n{"problem": "a", "answer": "1"},\n{"problem": "b', 3, "Unterminated"),
            ('[\n{"problem": "a", "answer": "1"}', 2, "expected , or ]"),
            ('[\n{"problem": "a", "answer": "1"}]\nx', 3, "more text"),
            ('[\n{"problem": "a",\n "answer": NaN}]', 2, "NaN"),
            ('[{"problem": "\\ud83d", "answer": "1"}]', 1, "surrogates"),
            ('[{"problem": "a", "answer": ' + "9" * 5000 + "}]", 1, "digits"),
            ("[" * 100_000, 1, "recursion"),
            ('{"data": 3', 1, "Expecting"),
            ('{"data" 3}', 1, "expected :"),
            ("12", 1, "neither an array nor an object"),
        ],
    )
    def test_bad_json_is_named_by_its_line(self, tmp_path: Path, text: str, line: int, why: str) -> None:
        file = tmp_path / "x.json"
        file.write_text(text)
        error = self.wrong(file)
        assert error.line == line
        assert why in str(error)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        for name in ("x.json", "x.csv", "x.jsonl"):
            file = tmp_path / name
            file.write_bytes(b'problem,answer\n"\xff\xfe",1\n')
            self.wrong(file)

    def write_csv(self, file: Path, rows: list[list[str]], encoding: str = "utf-8") -> Path:
        with file.open("w", encoding=encoding, newline="") as out:
            csv.writer(out).writerows(rows)
        return file

    def test_csv(self, tmp_path: Path) -> None:
        table = [["id", "problem", "answer"], *([*row.values()] for row in ROWS), ["c", "x", "007"]]
        for encoding in ("utf-8", "utf-8-sig"):
            file = self.write_csv(tmp_path / "x.CSV", table, encoding)
            assert [[p.id, p.problem, p.answer] for p in read_problems(file)] == table[1:]

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ('id,problem,answer\na,"two\nlines",1\nb,short\n', 4, "2 fields under 3 columns"),
            ("id,problem,answer\na,x,1,2\n", 2, "4 fields under 3 columns"),
            ('id,problem,answer\na,"x"y,1\n', 2, "not valid CSV"),
            ('id,problem,answer\na,"never closed,1\n', 2, "not valid CSV"),
            ("id,problem,answer,id\n", 1, "twice"),
            ("id;problem;answer\na;x;1\n", 2, "no problem"),
        ],
    )
    def test_bad_csv_is_named_by_its_line(self, tmp_path: Path, text: str, line: int, why: str) -> None:
        file = tmp_path / "x.csv"
        file.write_text(text)
        error = self.wrong(file)
        assert error.line == line
        assert why in str(error)

    def test_parquet(self, tmp_path: Path) -> None:
        import datetime
        import decimal

        import pyarrow
        import pyarrow.parquet

        columns: dict[str, list[object]] = {
            "question": ["a", "b", "c"],
            "final_answer": [["7"], None, ["\\frac{1}{2}"]],
            "image": [b"\x89PNG", None, None],
            "day": [datetime.date(2024, 2, 1)] * 3,
            "price": [decimal.Decimal("1.10")] * 3,
            "ratio": [0.5, float("nan"), None],
        }
        file = tmp_path / "x.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        first, last = read_problems(file)
        assert (first.problem, first.answer, last.answer) == ("a", "7", "\\frac{1}{2}")
        assert extras(first) == {"day": "2024-02-01", "price": "1.10", "ratio": 0.5}
        write_rows(tmp_path / "ours.jsonl", [first, last])
        file.write_bytes(file.read_bytes()[:-20])
        assert "parquet" in str(self.wrong(file))

    def test_parquet_numbers_keep_their_digits(self, tmp_path: Path) -> None:
        import decimal

        import pyarrow
        import pyarrow.parquet

        for given, answer in ((decimal.Decimal("1E+3"), "1000"), (decimal.Decimal("18.50"), "18.50"), (0.1, "0.1")):
            table = pyarrow.table({"question": ["a"], "answer": [given]})
            pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
            assert next(read_problems(tmp_path / "x.parquet")).answer == answer

    @pytest.mark.parametrize(
        ("name", "hint"), [("x.jsnl", "'.jsonl'"), ("x.parqet", "'.parquet'"), ("x.txt", ".csv"), ("x", ".json")]
    )
    def test_an_unknown_suffix(self, tmp_path: Path, name: str, hint: str) -> None:
        file = tmp_path / name
        file.touch()
        assert hint in self.wrong(file).remedy

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "folder.csv").mkdir()
        assert "no such file" in str(self.wrong(tmp_path / "absent.json"))
        assert "folder" in str(self.wrong(tmp_path / "folder.csv"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        for name in ("x.json", "x.jsonl", "x.csv", "x.parquet"):
            file = tmp_path / name
            file.touch(0o000)
            with pytest.raises(StorageError):
                list(read_problems(file))

    def test_stdin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"question": "q", "answer": "1"}\n')))
        (problem,) = resolve("-")
        assert (problem.problem, problem.source, problem.id.split("-")[0]) == ("q", "", "problem")
