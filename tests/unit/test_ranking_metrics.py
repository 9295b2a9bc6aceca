"""AUC and calibration against their definitions, and the AUC's interval against simulation."""

from __future__ import annotations

import random
from itertools import product
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.metrics import auc, auc_within, calibration_error

SCORED = st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.7]), st.booleans()), max_size=8)
PROBLEMS = st.lists(SCORED, max_size=6)


def by_pairs(scores: list[tuple[float, bool]]) -> float | None:
    """The share of pairs of a right and a wrong one in which the right one scores higher, equal ones half."""
    right, wrong = ([score for score, is_right in scores if is_right is kind] for kind in (True, False))
    won = [(r > w) + (r == w) / 2 for r, w in product(right, wrong)]
    return fmean(won) if won else None


@given(PROBLEMS)
def test_auc_is_the_share_of_pairs_ranked_right(problems: list[list[tuple[float, bool]]]) -> None:
    found, share = auc(problems), by_pairs([score for rows in problems for score in rows])
    if share is None:
        assert found is None
        return
    assert found is not None
    assert found["accuracy"] == pytest.approx(share)
    low, high = found["ci95"]  # type: ignore[misc]
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert found["n"] == sum(map(len, problems))
    turned = auc([[(-score, right) for score, right in rows] for rows in problems])
    assert turned is not None
    assert turned["accuracy"] == pytest.approx(1 - share)


@given(PROBLEMS)
def test_within_a_problem_is_the_mean_of_each_ones(problems: list[list[tuple[float, bool]]]) -> None:
    shares = [share for rows in problems if (share := by_pairs(rows)) is not None]
    found = auc_within(problems)
    assert (found is None) == (not shares)
    if found is not None:
        assert found["accuracy"] == pytest.approx(fmean(shares))
        assert found["n"] == len(shares)


def test_to_know_easy_problems_is_no_choice_within_one() -> None:
    easy, hard = [(0.9, True)] * 9 + [(0.9, False)], [(0.1, True)] + [(0.1, False)] * 9
    overall, within = auc([easy, hard]), auc_within([easy, hard])
    assert overall is not None
    assert within is not None
    assert overall["accuracy"] == pytest.approx(0.9)
    assert within["accuracy"] == 0.5


def test_the_interval_of_auc_heeds_that_solutions_of_a_problem_are_alike() -> None:
    """It holds the true area (0.76 for two normals a standard deviation apart) in about 95 of 100 cases."""
    rng, held = random.Random(0), 0
    for _ in range(200):
        problems = []
        for _ in range(60):
            shared = rng.gauss(0, 0.9)
            right = [rng.random() < 0.5 for _ in range(6)]
            problems.append([(shared + rng.gauss(is_right, (1 - 0.9**2) ** 0.5), is_right) for is_right in right])
        found = auc(problems)
        assert found is not None
        low, high = found["ci95"]  # type: ignore[misc]
        held += low <= 0.7602 <= high
    assert 180 <= held <= 199


def test_alike_solutions_widen_the_interval() -> None:
    rng = random.Random(1)
    single = [[(rng.gauss(is_right, 1), is_right)] for is_right in (True, False) * 50]
    tenfold = [rows * 10 for rows in single]
    one, ten, apart = auc(single), auc(tenfold), auc([[score] for rows in tenfold for score in rows])
    assert one is not None
    assert ten is not None
    assert apart is not None
    width = [found["ci95"][1] - found["ci95"][0] for found in (one, ten, apart)]  # type: ignore[index]
    assert width[1] == pytest.approx(width[0])
    assert width[2] < width[0] / 2


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_a_mean_over_bins(claims: list[tuple[float, bool]]) -> None:
    error = 0.0
    for i in range(10):
        inside = [claim for claim in claims if min(int(claim[0] * 10), 9) == i]
        if inside:
            error += len(inside) * abs(fmean(p for p, _ in inside) - fmean(came for _, came in inside))
    assert calibration_error(claims) == pytest.approx(error / len(claims), abs=1e-12)


def test_calibration_of_the_certain() -> None:
    assert calibration_error([(1.0, True), (0.0, False)]) == 0
    assert calibration_error([(1.0, False), (0.0, True)]) == 1
    assert calibration_error([(0.7, True)] * 7 + [(0.7, False)] * 3) == pytest.approx(0)
    assert calibration_error([]) is None
