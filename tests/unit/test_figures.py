"""Figures of evaluations, by rows made by hand."""

from __future__ import annotations

import math
import random
from itertools import combinations
from statistics import fmean

import pytest

from rstar_cli.records import EvalRow, EvalSample, Verdict
from rstar_cli.stages.figures import figures_of, kind_of, outcomes_of


def row(
    name: str,
    *samples: tuple[str | None, bool, float | None],
    chances: tuple[float, ...] = (),
    subject: str | None = None,
) -> EvalRow:
    """A problem of level 2 whose samples are (answer, right, score); each took 10 tokens."""
    answers = [answer for answer, *_ in samples]
    return EvalRow(
        problem_id=name,
        level=2,
        subject=subject,
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


def test_the_best_of_a_search_vote() -> None:
    """Upstream's: the 4 of the highest value, each with one vote."""
    scored = row(
        "a",
        ("1", False, 0.9),
        ("2", True, 0.8),
        ("2", True, 0.7),
        ("3", False, 0.6),
        ("1", False, 0.5),
        ("1", False, 0.4),
        (None, False, None),
    )
    tied = row("b", ("5", False, 0.1), ("6", True, 0.3), ("6", True, 0.0), ("5", False, 0.2))
    found = outcomes_of("mcts@8", [scored, tied, row("c")])
    assert found["mcts_top4@8"].picked == [1, 1, None], "of equal votes the answer with the best solution"
    assert found["mcts_top4@8"].values == [1, 1, 0]
    assert found["mcts@8"].picked[0] == 0
    unscored = row("a", ("1", False, None), ("2", True, None))
    assert list(outcomes_of("mcts@8", [unscored])) == ["mcts@8"], "without a PRM there is no best"
    for method in ("greedy", "mcts@8", "mcts_top4@8", "best-of-n@4", "majority@4", "best_of_n@4", "pass@1"):
        kind = "samples" if method in ("majority@4", "best_of_n@4", "pass@1") else method.replace("_top4", "")
        assert kind_of(method) == kind


def random_row(rng: random.Random, n: int) -> EvalRow:
    answers = [rng.choice(["1", "2", "3", None]) for _ in range(n)]
    samples = [(a, a == "1", None if a is None else round(rng.uniform(-1, 1), 2)) for a in answers]
    return row(f"p{rng.random()}", *samples)


@pytest.mark.parametrize("sizes", [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8], [1, 2, 4, 8, 16, 32, 40]])
def test_curves_by_the_number_of_samples(sizes: list[int]) -> None:
    n = sizes[-1]
    rng = random.Random(n)
    rows = [random_row(rng, n) for _ in range(20)]
    found = figures_of("samples", rows)
    for name in ("majority", "best_of_n", "weighted", "pass"):
        figures = found[f"{name}@{n}"]
        assert list(figures["by_n"]) == [str(k) for k in sizes]
        last = figures["by_n"][str(n)]
        assert last == {key: figures[key] for key in last}, "all samples: the method itself"
        for k, told in figures["by_n"].items():  # pass@k and best-of-N are over all subsets, votes over some
            slack = 0.0 if name == "best_of_n" else 0.1
            assert told["accuracy"] <= found[f"pass@{n}"]["by_n"][k]["accuracy"] + slack + 1e-9
    one = found["pass@1"]["accuracy"]
    assert all(found[f"{name}@{n}"]["by_n"]["1"]["accuracy"] == pytest.approx(one) for name in ("majority", "pass"))
    assert list(found[f"pass@{n}"]["theory"]) == [str(k) for k in sizes]
    assert found[f"pass@{n}"]["theory"]["1"] == pytest.approx(one)
    assert "by_n" not in found["pass@1"] or n == 1


def test_a_curve_of_best_of_n_is_the_mean_over_all_subsets() -> None:
    rows = [random_row(random.Random(seed), 6) for seed in range(12)]
    curve = figures_of("samples", rows)["best_of_n@6"]["by_n"]
    for k in (1, 2, 4, 6):
        shares = []
        for each in rows:
            bests = [
                max((s for s in subset if s.score is not None), key=lambda s: s.score, default=None)
                for subset in combinations(each.samples, k)
            ]
            shares.append(fmean(best is not None and best.verdict is Verdict.CORRECT for best in bests))
        assert curve[str(k)]["accuracy"] == pytest.approx(fmean(shares))


def test_the_theory_of_best_of_n() -> None:
    found = figures_of("samples", ROWS)["pass@4"]["theory"]
    assert found == {
        "1": pytest.approx((1 / 2 + 1 / 4 + 0) / 3),
        "2": pytest.approx((3 / 4 + 7 / 16 + 0) / 3),
        "4": pytest.approx((15 / 16 + 1 - (3 / 4) ** 4 + 0) / 3),
    }


def test_accuracy_by_subject_and_tokens_of_a_solved_problem() -> None:
    rows = [
        row("a", ("7", True, None), subject="algebra"),
        row("b", ("7", False, None), subject="algebra"),
        row("c", ("7", True, None), subject="Zahlen"),
        row("d", ("7", True, None)),
    ]
    told = figures_of("greedy", rows)["greedy"]
    assert {name: (f["accuracy"], f["n"]) for name, f in told["by_subject"].items()} == {
        "Zahlen": (1.0, 1),
        "algebra": (0.5, 2),
    }
    assert (told["tokens"], told["tokens_per_solved"]) == (40, 13.3)
    nothing = figures_of("greedy", [row("a", ("7", False, None))])["greedy"]
    assert nothing["tokens_per_solved"] is None
    assert "by_subject" not in nothing, "no problem has a subject"
    assert figures_of("samples", ROWS)["pass@4"]["tokens_per_solved"] == 60


def test_a_grading_that_failed_is_told_apart_from_wrong() -> None:
    broken = row("a", ("1", False, None))
    broken = broken.model_copy(update={"samples": (broken.samples[0].model_copy(update={"verdict": Verdict.TIMEOUT}),)})
    found = figures_of("greedy", [broken, row("b", (None, False, None))])["greedy"]
    assert found["verdicts"] == {"no_answer": 1, "timeout": 1}
    assert found["accuracy"] == 0
