r"""Problems out of files: fields by many names, answers of many kinds, and rows that are refused by line and field."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.problems.files import read_problems
from rstar_cli.problems.sources import resolve
from rstar_cli.records import Problem

SHARED = Path(os.environ.get("RSTAR_SHARED", Path(__file__).parents[3] / "shared"))
BENCHMARKS = SHARED / "data" / "benchmarks"


def put(folder: Path, rows: Iterable[object], name: str = "set.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def one(folder: Path, **row: object) -> Problem:
    (problem,) = read_problems(put(folder, [row]))
    return problem


def extras(problem: Problem) -> dict[str, object]:
    return dict(problem.model_extra or {})


class TestFields:
    @pytest.mark.parametrize("name", ["problem", "question", "prompt", "query", "Problem", "QUESTION"])
    def test_names_of_the_problem(self, tmp_path: Path, name: str) -> None:
        found = one(tmp_path, **{name: " What is 1 + 1?\n", "answer": "2"})
        assert found.problem == "What is 1 + 1?"
        assert extras(found) == {}

    def test_the_first_name_that_has_a_value_counts_and_others_are_kept(self, tmp_path: Path) -> None:
        found = one(tmp_path, prompt="Think!", question="What?", problem=None, answer="2", final_answer="3")
        assert (found.problem, found.answer) == ("What?", "2")
        assert extras(found) == {"prompt": "Think!", "final_answer": "3"}

    @pytest.mark.parametrize(
        ("given", "answer"),
        [
            ("72", "72"),
            (" \\$ 5", "\\$ 5"),
            (["7/2"], "7/2"),
            ([3], "3"),
            (18, "18"),
            (18.0, "18"),
            (-0.5, "-0.5"),
            (1e-7, "0.0000001"),
            (1e22, "1" + "0" * 22),
            (10**30 + 1, "1" + "0" * 29 + "1"),
            (True, "True"),
            ("1,080", "1,080"),
            ("So it is.\n#### 1,080", "1080"),
            ("#### -2,125,000.50 \nthanks", "-2125000.50"),
            ("####5", "5"),
            ("a #### b #### 1,2", "1,2"),
            ("We get \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
            ("\\boxed{1} or \\boxed{2}", "2"),
            ("\\boxed{never closed", "\\boxed{never closed"),
        ],
    )
    def test_answers_become_text_exactly(self, tmp_path: Path, given: object, answer: str) -> None:
        assert one(tmp_path, question="q", answer=given).answer == answer

    def test_the_answer_of_a_worked_solution(self, tmp_path: Path) -> None:
        solution = "First \\boxed{1}, then \\boxed{\\sqrt{2}}."
        found = one(tmp_path, problem="q", solution=solution)
        assert found.answer == "\\sqrt{2}"
        assert extras(found) == {"solution": solution}
        assert one(tmp_path, problem="q", solution=solution, answer="3").answer == "3"

    def test_a_rationale_is_kept_as_solution(self, tmp_path: Path) -> None:
        assert extras(one(tmp_path, question="q", answer="6*12=72\n#### 72")) == {"solution": "6*12=72\n#### 72"}
        assert extras(one(tmp_path, question="q", answer="so #### 72", solution="other")) == {"solution": "other"}

    def test_several_accepted_answers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        found = one(tmp_path, question="q", answer=["(10,0)", "(0,0)"])
        assert found.answer == "(10,0)"
        assert extras(found) == {"answers": ["(10,0)", "(0,0)"]}
        assert "several accepted answers" in caplog.text

    @pytest.mark.parametrize("given", [{"value": 3}, [["3"]], [{}]])
    def test_what_is_no_answer_is_refused(self, tmp_path: Path, given: object) -> None:
        with pytest.raises(DataError) as caught:
            one(tmp_path, question="q", answer=given)
        assert (caught.value.line, caught.value.field) == (1, "answer")

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ({"id": "a/1.json"}, "a/1.json"),
            ({"id": 7}, "7"),
            ({"ID": "2024-I-1"}, "2024-I-1"),
            ({"unique_id": "u", "id": None, "index": 4}, "u"),
            ({"index": 0}, "set-0"),
            ({"idx": "12"}, "set-12"),
        ],
    )
    def test_ids(self, tmp_path: Path, row: dict[str, object], expected: str) -> None:
        assert one(tmp_path, question="q", answer="1", **row).id == expected

    def test_an_id_is_made_of_the_text_alone(self, tmp_path: Path) -> None:
        first = one(tmp_path, question="What  is\n1 + 1?", answer="2")
        again = one(tmp_path, problem="What is 1 + 1? ", answer=2, level=3)
        other = one(tmp_path, problem="What is 1 + 2?", answer=2)
        assert first.id == again.id != other.id
        name, digest = first.id.split("-")
        assert name == "set"
        assert len(bytes.fromhex(digest)) == 6

    @pytest.mark.parametrize(
        ("row", "level", "kept"),
        [
            ({"level": "Level 5"}, 5, {}),
            ({"level": 3}, 3, {}),
            ({"difficulty": 5.0}, 5, {}),
            ({"difficulty": "2"}, 2, {}),
            ({"level": 4, "difficulty": 0.37}, 4, {"difficulty": 0.37}),
            ({"level": "Level ?"}, None, {"original_level": "Level ?"}),
            ({"difficulty": "Competition"}, None, {"difficulty": "Competition"}),
            ({"difficulty": 7.5}, None, {"difficulty": 7.5}),
            ({"difficulty": 0.0}, None, {"difficulty": 0.0}),
            ({"level": True}, None, {"original_level": True}),
        ],
    )
    def test_levels(self, tmp_path: Path, row: dict[str, object], level: int | None, kept: object) -> None:
        found = one(tmp_path, question="q", answer="1", **row)
        assert found.level == level
        assert extras(found) == kept

    def test_subject_and_foreign_fields(self, tmp_path: Path) -> None:
        found = one(tmp_path, question="q", answer="1", type="Algebra", url="u", tags=["a", {"b": None}], nothing=None)
        assert found.subject == "Algebra"
        assert extras(found) == {"url": "u", "tags": ["a", {"b": None}]}
        both = one(tmp_path, question="q", answer="1", subject="Geometry", type="free form")
        assert both.subject == "Geometry"
        assert extras(both) == {"type": "free form"}

    def test_the_source(self, tmp_path: Path) -> None:
        file = put(tmp_path, [{"question": "q", "answer": "1", "source": "aops"}, {"question": "r", "answer": "1"}])
        assert [p.source for p in read_problems(file)] == ["aops", "set"]
        named = list(read_problems(file, source="mine"))
        assert [p.source for p in named] == ["mine", "mine"]
        assert [p.id.split("-")[0] for p in named] == ["mine", "mine"]
        assert extras(named[0]) == {"original_source": "aops"}

    @pytest.mark.parametrize(
        ("row", "field", "looked_for"),
        [
            ({"answer": "1"}, "problem", "question"),
            ({"question": "q"}, "answer", "final_answer"),
            ({"problem": "  ", "answer": "1"}, "problem", "question"),
            ({"problem": ["q"], "answer": "1"}, "problem", ""),
        ],
    )
    def test_a_missing_field_is_named_with_what_was_looked_for(
        self, tmp_path: Path, row: dict[str, object], field: str, looked_for: str
    ) -> None:
        file = put(tmp_path, [{"question": "fine", "answer": "1"}, row])
        with pytest.raises(DataError) as caught:
            list(read_problems(file))
        assert (caught.value.path, caught.value.line, caught.value.field) == (file, 2, field)
        assert looked_for in caught.value.remedy


class TestRows:
    def test_rows_without_an_answer_are_left_out_and_said_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [{"question": "a", "answer": None}, {"question": "b", "answer": "1"}, {"question": "c", "answer": " "}]
        file = put(tmp_path, [*rows, {"question": "d", "solution": "nothing boxed"}])
        assert [p.problem for p in read_problems(file)] == ["b"]
        assert "3 without an answer left out (line 1, 3, 4)" in caplog.text
        assert [p.answer for p in read_problems(file, require_answer=False)] == ["", "1", "", ""]

    def test_a_file_without_any_answer_is_refused(self, tmp_path: Path) -> None:
        file = put(tmp_path, [{"question": "a", "answer": ""}, {"question": "b", "answer": None}])
        with pytest.raises(DataError, match="not one of 2") as caught:
            list(read_problems(file))
        assert (caught.value.line, caught.value.field) == (1, "answer")
        assert len(list(read_problems(file, require_answer=False))) == 2

    def test_equal_rows_are_merged_and_said_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = [{"question": "a b", "answer": "1"}, {"question": "a  b ", "answer": 1, "level": 2}]
        assert [p.level for p in read_problems(put(tmp_path, rows))] == [None]
        assert [(r.levelno, "1 that repeat" in r.getMessage()) for r in caplog.records] == [(logging.WARNING, True)]

    @pytest.mark.parametrize(
        "rows",
        [
            [{"id": "x", "question": "a", "answer": "1"}, {"id": "x", "question": "b", "answer": "1"}],
            [{"question": "a", "answer": "1"}, {"question": "a", "answer": "2"}],
        ],
    )
    def test_one_id_for_different_problems_is_refused_with_both_lines(self, tmp_path: Path, rows: list[object]) -> None:
        file = put(tmp_path, [{"question": "first", "answer": "1"}, *rows])
        with pytest.raises(DataError, match="line 2") as caught:
            list(read_problems(file))
        assert (caught.value.line, caught.value.field) == (3, "id")

    def test_the_limit_counts_problems_and_reads_no_further(self, tmp_path: Path) -> None:
        rows = [{"question": "a", "answer": None}, {"question": "b", "answer": "1"}, {"question": "c", "answer": "1"}]
        file = put(tmp_path, [*rows, {"wrong": 1}])
        assert [p.problem for p in read_problems(file, limit=2)] == ["b", "c"]
        assert list(read_problems(file, limit=0)) == []
        with pytest.raises(DataError):
            list(read_problems(file))

    def test_our_own_rows_are_read_back(self, tmp_path: Path) -> None:
        rows = [{"question": "q", "answer": "6 #### 72", "level": "Level ?", "source": "s", "type": "t", "x": 1.5}]
        problems = list(read_problems(put(tmp_path, rows)))
        write_rows(tmp_path / "ours.jsonl", problems)
        assert list(read_problems(tmp_path / "ours.jsonl")) == problems


class TestResolve:
    def test_a_file_wins_over_a_benchmark_of_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        put(tmp_path, [{"question": "q", "answer": "1"}, {"question": "r", "answer": None}], "math.jsonl")
        assert [p.problem for p in resolve("math.jsonl")] == ["q"]
        assert len(list(resolve("math.jsonl", require_answer=False))) == 2
        assert len(list(resolve("math.jsonl", require_answer=False, limit=1))) == 1

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        put(tmp_path, [], "train.jsonl")
        with pytest.raises(DataError, match="no such file") as caught:
            resolve(str(tmp_path / "trian.jsonl"))
        assert "train.jsonl" in caught.value.remedy
        with pytest.raises(DataError, match="folder"):
            resolve(str(tmp_path))

    def test_a_word_that_is_nothing(self) -> None:
        with pytest.raises(UsageError, match="'gsm9k'") as caught:
            resolve("gsm9k")
        assert "'gsm8k'" in caught.value.remedy


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no shared data")
class TestRealData:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("GSM8K_test.json", 1319),
            ("GSM8K_train.jsonl", 7473),
            ("MATH_test.json", 5000),
            ("MATH_train.json", 7469),  # of 7474: four have no answer, one is there twice
            ("aime2024_test.json", 30),
            ("amc23_test.json", 40),
            ("collegemath_test.json", 2818),
            ("gaokao2023en_test.json", 383),  # of 385: two have no answer
            ("math500_test.json", 500),
            ("olympiadbench_test.json", 675),
        ],
    )
    def test_every_benchmark_is_read(self, name: str, count: int) -> None:
        problems = list(read_problems(BENCHMARKS / name))
        assert len(problems) == len({p.id for p in problems}) == count
        assert all(p.answer and p.problem for p in problems)
        assert not any("####" in p.answer or "\\boxed" in p.answer for p in problems)
