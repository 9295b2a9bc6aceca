"""The grader's figures: on cases of our own (tests/cases), on those of others' test suites, and on real outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.bench.grader import Outcome, read_cases, score
from rstar_cli.grader import LENIENT, STRICT, Grader, Policy
from rstar_cli.records import Verdict

OWN = Path(__file__).parents[1] / "cases"
SHARED = Path(os.environ.get("RSTAR_SHARED") or Path(__file__).parents[3] / "shared")
WRONG_LABELS = {
    ("(+5)(b+2)", "(5)(2)"): "the gold has lost its letter a; the prediction has lost both",
    (r"(-\infty,0]", r"(-\infty,0)"): "the end 0 belongs to one of them only",
    (r"\frac{3\sqrt{3}}{4}", r"\displaystyle\frac{3\sqrt{3}}{4}"): "they differ in a size command alone",
}
"""Pairs of real outputs whose published label is wrong, and why."""


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def scored(grader: Grader, path: Path) -> dict[str, Any]:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    cases = read_cases(path)
    grades = grader.grade([(case.gold, case.pred) for case in cases])
    return score(cases, [Outcome(grade.verdict.value, grade.decided_by, 0.0) for grade in grades])


def test_own_answers(grader: Grader) -> None:
    told = scored(grader, OWN / "answers.jsonl")
    assert told["answers"]["cases"] >= 1000
    assert told["answers"]["true_accept"] >= 98, told["disagreements"]
    assert told["answers"]["false_accept"] == 0, told["disagreements"]


def test_own_answers_in_prose(grader: Grader) -> None:
    told = scored(grader, OWN / "prose.jsonl")
    assert told["extraction"]["cases"] >= 400
    assert told["extraction"]["true_accept"] >= 96, told["disagreements"]
    assert told["extraction"]["false_accept"] <= 0.3, told["disagreements"]


def test_own_probes(grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an injection that works leaves a file
    told = scored(grader, OWN / "probes.jsonl")
    assert told["probes"]["cases"] >= 100
    assert told["probes"]["accepted_wrongly"] == 0, told["disagreements"]
    assert list(tmp_path.iterdir()) == []


def test_cases_of_others(grader: Grader) -> None:
    told = scored(grader, SHARED / "data/grader_cases.jsonl")
    assert told["answers"]["accuracy"] >= 98, told["disagreements"]
    assert told["answers"]["true_accept"] >= 97, told["disagreements"]
    assert told["answers"]["false_accept"] <= 0.3, told["disagreements"]
    assert told["extraction"]["true_accept"] >= 96, told["disagreements"]
    assert told["extraction"]["false_accept"] == 0, told["disagreements"]
    assert told["probes"]["accepted_wrongly"] == 0, told["disagreements"]


def test_real_outputs(grader: Grader) -> None:
    told = scored(grader, SHARED / "data/real_outputs.jsonl")
    unexplained = [row for row in told["disagreements"] if (row["gold"], row["pred"]) not in WRONG_LABELS]
    assert [row for row in unexplained if not row["label"]] == []
    assert len(unexplained) <= 1


def test_a_lenient_grader_accepts_what_a_strict_one_does(grader: Grader) -> None:
    cases = [(case.gold, case.pred) for case in read_cases(OWN / "answers.jsonl")]
    with Grader(policy=LENIENT) as lenient:
        pairs = zip(cases, grader.grade(cases), lenient.grade(cases), strict=True)
        lost = [case for case, strict, loose in pairs if strict.verdict == "correct" != loose.verdict]
    assert lost == []


@pytest.mark.parametrize(
    ("policy", "gold", "prediction", "expected"),
    [
        (STRICT, r"10\%", "0.1", False),
        (LENIENT, r"10\%", "0.1", True),
        (LENIENT, "0.1", r"10\%", True),
        (LENIENT, "1", "100", False),
        (STRICT, "1/3", "0.33", False),
        (LENIENT, "1/3", "0.33", True),
        (LENIENT, "2/3", "0.66", False),
        (LENIENT, r"40\pi", "125.66", True),
        (LENIENT, "3.14159", "3.142", True),
        (LENIENT, "10000", "9999", False),
        (LENIENT, "3", "3.2", False),
        (STRICT, "1, 3", "3, 1", True),
        (Policy(ordered_lists=True), "1, 3", "3, 1", False),
        (Policy(ordered_lists=True), "1, 3", "1, 3.0", True),
        (STRICT, "5", "5 cm", True),
        (Policy(missing_units=False), "5", "5 cm", False),
        (Policy(missing_units=False), "5 cm", r"5\text{ cm}", True),
        (STRICT, "5 cm", "5 m", False),
    ],
)
def test_policy(policy: Policy, gold: str, prediction: str, expected: bool) -> None:
    with Grader(workers=1, policy=policy) as grader:
        assert (grader.grade([(gold, prediction)])[0].verdict is Verdict.CORRECT) is expected


def test_every_case_says_why() -> None:
    for path in OWN.glob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            assert json.loads(line)["why"], f"{path.name}: {line}"
