"""`rstar bench grader`: its figures are counted right, and its input is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.bench.grader import Case, Outcome, describe, score
from rstar_cli.bench.math_verify import MathVerify, boxed
from tests.helpers import rstar

ROWS: list[dict[str, Any]] = [
    {"gold": r"\frac{1}{2}", "pred": "0.5", "label": True, "kind": "number"},
    {"gold": "7", "pred": "8", "label": False, "kind": "number"},
    {"gold": "(1,2)", "pred": "[1,2]", "label": False},
    {"gold": "1/3", "pred": "0.33", "label": True, "debatable": True},
    {"gold": "12", "pred": "So the answer is 12.", "label": True, "kind": "extraction"},
    {"gold": "7", "pred": r"\sum_{k=1}^{10^9}\frac{\sin k}{k}", "label": False, "kind": "hang"},
    {"gold": "5", "pred": "__import__('pathlib').Path('pwned').touch()", "label": False, "kind": "injection"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_both_graders_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "cases.jsonl", ROWS)
    done = rstar("bench", "grader", "--cases", "cases.jsonl", "--timeout", "8", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    data = told["data"]
    assert data["cases"] == len(ROWS)
    ours, theirs = data["rstar"], data["math_verify"]
    for each in (ours, theirs):
        assert each["answers"]["cases"] == 3, "what is debatable is not scored"
        assert each["extraction"]["cases"] == 1
        assert each["probes"]["cases"] == 2
        assert each["median_ms"] > 0
    assert ours["answers"] == {"cases": 3, "accuracy": 100.0, "true_accept": 100.0, "false_accept": 0.0}
    assert ours["extraction"]["accuracy"] == 100.0
    assert ours["disagreements"] == []
    assert theirs["answers"]["true_accept"] == 100.0, "math-verify knows a half"
    assert told["figures"] == {name: list(cells) for name, cells in describe(data).items()}
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"], "nothing was executed"


def test_the_table_names_both(tmp_path: Path) -> None:
    write(tmp_path / "cases.jsonl", ROWS[:2])
    done = rstar("bench", "grader", "--cases", "cases.jsonl", "--timeout", "8", cwd=tmp_path)
    assert done.stdout == ""
    header = next(line for line in done.stderr.splitlines() if "math-verify" in line and "left" not in line)
    assert "rstar" in header
    assert "answers (2), accuracy" in done.stderr


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([{"gold": 1, "pred": "1", "label": True}], "gold"),
        ([{"gold": "1", "label": True}], "pred"),
        ([{"gold": "1", "pred": "1", "label": "yes"}], "label"),
    ],
)
def test_a_row_that_is_no_case_is_named(tmp_path: Path, rows: list[dict[str, Any]], names: str) -> None:
    write(tmp_path / "cases.jsonl", [ROWS[0], *rows])
    done = rstar("bench", "grader", "--cases", "cases.jsonl", cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "cases.jsonl:2" in done.stderr
    assert names in done.stderr


def test_no_cases(tmp_path: Path) -> None:
    assert rstar("bench", "grader", cwd=tmp_path, check=False).returncode == 2
    assert rstar("bench", "grader", "--cases", "absent.jsonl", cwd=tmp_path, check=False).returncode == 3
    (tmp_path / "empty.jsonl").touch()
    empty = rstar("bench", "grader", "--cases", "empty.jsonl", cwd=tmp_path, check=False)
    assert empty.returncode == 3
    assert "holds no case" in empty.stderr


def test_rates() -> None:
    cases = [Case("1", "1", label, "answer", False) for label in (True, True, False, False)]
    verdicts = ["correct", "timeout", "correct", "incorrect"]
    told = score(
        cases, [Outcome(verdict, "", seconds) for verdict, seconds in zip(verdicts, (1, 2, 3, 4), strict=True)]
    )
    assert told["answers"] == {"cases": 4, "accuracy": 50.0, "true_accept": 50.0, "false_accept": 50.0}
    assert told["no_verdict"] == 1
    assert told["median_ms"] == 2500
    assert told["p99_ms"] == 4000
    assert [row["verdict"] for row in told["disagreements"]] == ["timeout", "correct"]
    assert told["extraction"]["accuracy"] is None


def test_a_hang_of_math_verify_costs_its_time_and_no_more() -> None:
    hang = r"\sum_{k=1}^{10^9}\frac{\sin k}{k}"
    with MathVerify(8.0) as peer:
        told = list(peer.grade([(boxed("7"), boxed("7")), (boxed("7"), boxed(hang)), (boxed("1/2"), boxed("0.5"))]))
    assert [verdict for verdict, _ in told][::2] == ["correct", "correct"]
    assert told[1][0] != "correct"
