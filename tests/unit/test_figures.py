"""Figures of evaluations, by rows made by hand."""

from __future__ import annotations

import math

import pytest

from rstar_cli.records import EvalRow, EvalSample, Verdict
from rstar_cli.stages.figures import figures_of


def row(name: str, *samples: tuple[str | None, bool, float | None], chances: tuple[float, ...] = ()) -> EvalRow:
    """A problem of level 2 whose samples are (answer, right, score); each took 10 tokens."""
    answers = [answer for answer, *_ in samples]
    return EvalRow(
        problem_id=name,
        level=2,
        tokens=10 * len(samples),
        samples=tuple(
            EvalSample(
                answer=answer,
                group=None if answer is None else answers.index(answer),
                verdict=Verdict.CORRECT if right else Verdict.INCORRECT if answer else Verdict.NO_ANSWER,
                tokens=10,
                score=score,
                logprob=math.log(chances[i]) if chances else 0.0,
            )
            for i, (answer, right, score) in enumerate(samples)
        ),
    )


ROWS = [
    row("a", ("7", True, -0.2), ("7", True, -0.4), ("8", False, 0.1), (None, False, None)),  # the votes are right
    row("b", ("1", False, -0.9), ("1", False, -0.8), ("2", True, 0.9), (None, False, None)),  # the PRM is right
    row("c", ("5", False, 0.5), ("6", False, 0.1), (None, False, None), (None, False, None)),  # nothing is right
]


def test_methods_of_one_set_of_samples() -> None:
    found = figures_of("samples", ROWS)
    shares = {method: figures["accuracy"] for method, figures in found.items()}
    assert shares == {
        "majority@4": pytest.approx(1 / 3),
        "best_of_n@4": pytest.approx(1 / 3),
        "weighted@4": pytest.approx(2 / 3),
        "pass@1": pytest.approx((2 / 4 + 1 / 4) / 3),
        "pass@4": pytest.approx(2 / 3),
    }
    assert {figures["tokens"] for method, figures in found.items() if method != "pass@1"} == {120}
    assert found["pass@1"]["tokens"] == 30, "one sample of four"
    assert found["majority@4"]["by_level"]["2"]["n"] == found["majority@4"]["n"] == 3


def test_without_a_prm_nothing_is_told_of_it() -> None:
    rows = [row("a", ("7", True, None), ("8", False, None))]
    assert set(figures_of("samples", rows)) == {"majority@2", "pass@1", "pass@2"}


def test_a_search_votes_by_likelihood_and_value() -> None:
    by_likelihood = row("a", ("1", True, None), ("2", False, None), ("2", False, None), chances=(0.5, 0.3, 0.1))
    by_value = row("b", ("1", False, -0.9), ("2", True, 0.9), chances=(0.5, 0.3))
    nothing = row("c")
    found = figures_of("mcts@8", [by_likelihood, by_value, nothing])
    assert list(found) == ["mcts@8", "mcts_top4@8"]
    assert found["mcts@8"]["accuracy"] == pytest.approx(2 / 3)
    assert found["mcts@8"]["verdicts"] == {"correct": 2, "no_answer": 1}


def test_a_grading_that_failed_is_told_apart_from_wrong() -> None:
    broken = row("a", ("1", False, None))
    broken = broken.model_copy(update={"samples": (broken.samples[0].model_copy(update={"verdict": Verdict.TIMEOUT}),)})
    found = figures_of("greedy", [broken, row("b", (None, False, None))])["greedy"]
    assert found["verdicts"] == {"no_answer": 1, "timeout": 1}
    assert found["accuracy"] == 0
