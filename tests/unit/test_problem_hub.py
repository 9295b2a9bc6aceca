r"""Problems out of hub data sets: the real loading code on folders laid out as the hub's, and what is said offline."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import DataError, SetupError, UsageError
from rstar_cli.problems import hub
from rstar_cli.problems.hub import BENCHMARKS, load_benchmark
from rstar_cli.problems.sources import resolve
from rstar_cli.records import Problem

Splits = dict[tuple[str, str], list[dict[str, Any]]]
"""Rows by (config, split), both as the hub calls them."""


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lay rows out as a hub data set in a folder, and let a benchmark's name stand for it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def to_folder(name: str, splits: Splits) -> None:
        import pyarrow
        import pyarrow.parquet

        folder = tmp_path / "hub" / name
        card = ["---", "configs:"]
        for config in dict.fromkeys(config for config, _ in splits):
            card += [f"- config_name: {config}", "  data_files:"]
            for (owner, split), rows in splits.items():
                if owner == config:
                    (folder / config).mkdir(parents=True, exist_ok=True)
                    table = pyarrow.Table.from_pylist(rows)
                    pyarrow.parquet.write_table(table, folder / config / f"{split}.parquet")
                    card += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
        (folder / "README.md").write_text("\n".join([*card, "---", ""]))
        local = dataclasses.replace(BENCHMARKS[name], hub_id=str(folder))
        monkeypatch.setattr(hub, "BENCHMARKS", {**BENCHMARKS, name: local})

    return to_folder


def the_one(name: str, split: str | None = None) -> Problem:
    (problem,) = load_benchmark(name, split)
    assert problem.source == name
    return problem


class TestBenchmarks:
    """Each with rows as its dataset card describes them."""

    def test_math(self, publish) -> None:
        def row(text: str, level: str) -> dict[str, Any]:
            return {"problem": text, "level": level, "type": "Algebra", "solution": f"So \\boxed{{{len(text)}}}."}

        splits: Splits = {}
        for config in BENCHMARKS["math"].configs:
            assert config is not None
            splits[config, "train"] = [row(f"train {config}", "Level ?")]
            splits[config, "test"] = [row(f"test {config}", "Level 5")]
        publish("math", splits)
        problems = list(load_benchmark("math"))
        assert [p.problem for p in problems] == [f"test {config}" for config in BENCHMARKS["math"].configs]
        assert [p.answer for p in problems] == [str(len(p.problem)) for p in problems]
        assert {(p.level, p.subject, p.source) for p in problems} == {(5, "Algebra", "math")}
        assert all(p.id.startswith("math-") for p in problems)
        assert [p.problem for p in load_benchmark("math", "train", limit=1)] == ["train algebra"]

    def test_math500(self, publish) -> None:
        row = {"problem": "p", "solution": "\\boxed{9}", "answer": "8", "subject": "Algebra", "level": 2}
        publish("math500", {("default", "test"): [{**row, "unique_id": "test/algebra/1.json"}]})
        found = the_one("math500")
        assert (found.id, found.answer, found.level, found.subject) == ("test/algebra/1.json", "8", 2, "Algebra")

    def test_gsm8k(self, publish) -> None:
        row = {"question": "q", "answer": "<<6*200=1200>>\n#### 1,200"}
        publish("gsm8k", {("main", "train"): [row], ("main", "test"): [row], ("socratic", "test"): [row] * 2})
        assert the_one("gsm8k").answer == the_one("gsm8k", "train").answer == "1200"

    def test_aime24(self, publish) -> None:
        row = {"id": 60, "problem": "p", "solution": "\\boxed{5}", "answer": "204", "url": "u", "year": "2024"}
        publish("aime24", {("default", "train"): [row]})
        found = the_one("aime24", "test")
        assert (found.id, found.answer) == ("aime24-60", "204")

    def test_amc23(self, publish) -> None:
        publish("amc23", {("default", "test"): [{"id": 0, "question": "q", "answer": 27.0, "url": "u"}]})
        found = the_one("amc23")
        assert (found.id, found.answer, found.model_extra) == ("amc23-0", "27", {"url": "u"})

    def test_olympiadbench(self, publish) -> None:
        row = {
            "id": 1606,
            "question": "q",
            "solution": ["long"],
            "final_answer": ["$\\frac{1}{2}$"],
            "context": None,
            "image_1": None,
            "difficulty": "Competition",
            "is_multiple_answer": False,
            "subfield": "Algebra",
            "subject": "Math",
        }
        publish("olympiadbench", {("OE_TO_maths_en_COMP", "train"): [row], ("TP_TO_maths_en_COMP", "train"): [row] * 2})
        found = the_one("olympiadbench")
        assert (found.id, found.answer, found.level) == ("olympiadbench-1606", "$\\frac{1}{2}$", None)
        assert (found.model_extra or {})["difficulty"] == "Competition"

    def test_numinamath(self, publish, caplog: pytest.LogCaptureFixture) -> None:
        def row(text: str, answer: str | None) -> dict[str, Any]:
            return {
                "problem": text,
                "solution": "\\boxed{0}",
                "answer": answer,
                "problem_type": "Algebra",
                "source": "o",
            }

        rows = [row("a", "1"), row("b", "proof"), row("c", "notfound"), row("a", "1"), row("a", "2"), row("d", "4")]
        publish("numinamath", {("default", "train"): rows})
        problems = list(load_benchmark("numinamath"))
        assert [(p.problem, p.answer, p.subject) for p in problems] == [("a", "1", "Algebra"), ("d", "4", "Algebra")]
        assert (problems[0].model_extra or {})["original_source"] == "o"
        assert "2 without an answer" in caplog.text
        assert "1 that repeat" in caplog.text
        assert "1 that contradict" in caplog.text
        assert [p.problem for p in load_benchmark("numinamath", limit=1)] == ["a"]


class TestErrors:
    def test_a_split_is_part_of_the_name_for_resolve(self, publish) -> None:
        rows = {split: [{"question": split, "answer": "#### 1"}] for split in ("train", "test")}
        publish("gsm8k", {("main", split): given for split, given in rows.items()})
        assert [p.problem for p in resolve("gsm8k")] == ["test"]
        assert [p.problem for p in resolve("gsm8k:train", limit=5)] == ["train"]

    def test_an_unknown_name_or_split(self) -> None:
        with pytest.raises(UsageError, match="'math50'") as caught:
            load_benchmark("math50")
        assert "'math500'" in caught.value.remedy
        with pytest.raises(UsageError, match="no split 'trian'") as caught:
            load_benchmark("gsm8k", "trian")
        assert "'train'" in caught.value.remedy
        with pytest.raises(UsageError, match="no split 'test'"):
            load_benchmark("numinamath", "test")

    def test_a_data_set_that_lacks_the_split_or_part(self, publish) -> None:
        row = {"question": "q", "answer": "#### 1"}
        publish("gsm8k", {("main", "train"): [row]})
        with pytest.raises(SetupError, match=r"gsm8k: can't load split test .*\(main\)"):
            list(load_benchmark("gsm8k"))
        publish("gsm8k", {("socratic", "test"): [row]})
        with pytest.raises(SetupError, match="main"):
            list(load_benchmark("gsm8k"))

    def test_a_row_that_is_no_problem_names_data_set_and_row(self, publish) -> None:
        publish("gsm8k", {("main", "test"): [{"question": "q", "answer": "#### 1"}, {"question": "", "answer": "1"}]})
        with pytest.raises(DataError) as caught:
            list(load_benchmark("gsm8k"))
        assert (caught.value.line, caught.value.field) == (2, "problem")

    @pytest.mark.parametrize("name", ["gsm8k", "numinamath"])
    def test_offline_says_what_was_tried_and_what_to_do(self, tmp_path: Path, name: str) -> None:
        script = (
            "import sys; from rstar_cli.errors import SetupError; from rstar_cli.problems.sources import resolve\n"
            f"try: next(resolve({name!r}))\n"
            "except SetupError as error: print(error, '|', error.remedy)"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert BENCHMARKS[name].hub_id in done.stdout
        assert "offline" in done.stdout.lower()
        assert "rstar problems import FILE" in done.stdout

    def test_naming_a_benchmark_loads_no_heavy_package(self) -> None:
        script = (
            "import sys, rstar_cli.problems.sources; print([m for m in ('datasets', 'pyarrow') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.mark.network
@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("math", 5000),
        ("math:train", 7500),
        ("math500", 500),
        ("gsm8k", 1319),
        ("gsm8k:train", 7473),
        ("aime24", 30),
        ("amc23", 40),
        ("olympiadbench", 674),
        ("numinamath", 200),
    ],
)
def test_the_real_data_sets(source: str, count: int) -> None:
    problems = list(resolve(source, limit=count + 1 if source != "numinamath" else count))
    assert 0.99 * count <= len(problems) <= count  # a few rows repeat or have no answer
    assert all(p.answer for p in problems)
