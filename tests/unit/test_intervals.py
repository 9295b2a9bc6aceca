"""Intervals, tests and estimators against SciPy and published formulas on random data; what intervals hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rstar_cli.metrics import (
    best_of,
    best_of_at_k,
    estimate,
    estimate_clustered,
    independent_pass,
    mcnemar,
    paired_gain,
    pass_at_k,
    wilson,
)

SEEDS = pytest.mark.parametrize("seed", range(5))


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    expected = stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_scipys_binomial_test(won: int, lost: int) -> None:
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_changes() -> None:
    assert mcnemar(2600, 2400) == pytest.approx(stats.binomtest(2600, 5000).pvalue, rel=1e-9)
    assert 0 < mcnemar(1000, 0) == 2.0**-999


@SEEDS
def test_pass_at_k_is_the_published_estimator(seed: int) -> None:
    """Chen et al. 2021 (arXiv 2107.03374), figure 3."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        n = int(rng.integers(1, 257))
        c, k = int(rng.integers(0, n + 1)), int(rng.integers(1, n + 1))
        published = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
        assert pass_at_k(n, c, k) == pytest.approx(published, abs=1e-10)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_the_theory_is_what_pass_at_k_estimates_and_the_plug_in_is_low(p: float, k: int) -> None:
    n = 16
    chances = stats.binom.pmf(range(n + 1), n, p)
    theory = 1 - (1 - p) ** k
    assert math.fsum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances)) == pytest.approx(theory)
    plugged = math.fsum(chance * independent_pass(n, c, k) for c, chance in enumerate(chances))
    assert plugged == pytest.approx(theory) if k == 1 else plugged < theory


SAMPLES = st.lists(
    st.tuples(st.none() | st.integers(0, 2), st.none() | st.sampled_from([-0.5, 0.1, 0.9]), st.booleans()),
    min_size=1,
    max_size=7,
)


@given(SAMPLES)
def test_best_of_at_k_by_enumeration(samples: list[tuple[int | None, float | None, bool]]) -> None:
    groups, scores, right = zip(*samples, strict=True)
    for k in range(1, len(samples) + 1):
        hits = []
        for places in combinations(range(len(samples)), k):
            picked = best_of([scores[i] for i in places], [groups[i] for i in places])
            hits.append(picked is not None and right[places[picked]])
        assert best_of_at_k(scores, groups, right, k) == pytest.approx(fmean(hits))


def bootstrap(values: np.ndarray, method: str, resamples: int = 2000) -> tuple[float, float]:
    found = stats.bootstrap((values,), np.mean, n_resamples=resamples, method=method, rng=np.random.default_rng(0))
    return tuple(found.confidence_interval)


@SEEDS
def test_an_estimate_of_shares_is_the_normal_interval_of_padded_values(seed: int) -> None:
    values = np.random.default_rng(seed).beta(0.7, 0.5, 60)
    padded = np.concatenate([values, [0, 0, 1, 1]])
    expected = stats.norm.interval(0.95, padded.mean(), stats.sem(padded))
    assert estimate(values.tolist())["ci95"] == pytest.approx(expected, abs=1e-9)


@SEEDS
@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_of_many_spread_values_it_is_scipys_bootstrap(seed: int, method: str) -> None:
    values = np.random.default_rng(seed).beta(0.7, 0.5, 500)
    low, high = bootstrap(values, method)
    assert estimate(values.tolist())["ci95"] == pytest.approx((low, high), abs=0.08 * (high - low))


@SEEDS
@pytest.mark.parametrize("shares", [False, True])
def test_of_many_changes_a_paired_gain_is_scipys_bootstrap(seed: int, shares: bool) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.beta(2, 2, 500), rng.beta(3, 2, 500)
    before, after = (p, q) if shares else (rng.random(500) < p, rng.random(500) < q)
    gain, interval = paired_gain(before.tolist(), after.tolist())
    changes = after.astype(float) - before.astype(float)
    low, high = bootstrap(changes, "BCa")
    assert gain == pytest.approx(changes.mean())
    assert interval == pytest.approx((low, high), abs=0.08 * (high - low))


def held(
    draw: Callable[[np.random.Generator], tuple[np.ndarray, float]],
    interval: Callable[[np.ndarray], tuple[float, float]],
    trials: int,
) -> float:
    """Share of trials in which an interval holds the truth."""
    hits = 0
    for seed in range(trials):
        values, truth = draw(np.random.default_rng(seed))
        low, high = interval(values)
        hits += low <= truth <= high
    return hits / trials


CHANCES = np.random.default_rng(99).beta(2, 0.3, 200_000)
"""Of problems of which a policy solves most nearly always."""
LATER = np.random.default_rng(98).beta(5, 1, 200_000)
"""How much of what is left of them a later round's policy solves."""
PASS_AT_4 = np.array([pass_at_k(8, c, 4) for c in range(9)])


def pass_at_4(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return PASS_AT_4[rng.binomial(8, chances)]


@pytest.mark.filterwarnings("ignore")  # BCa of values that are all equal
@pytest.mark.parametrize("n", [20, 100])
def test_where_values_crowd_the_interval_holds_and_the_bootstrap_does_not(n: int) -> None:
    truth = float(np.mean(1 - (1 - CHANCES) ** 4))

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, float]:
        return pass_at_4(rng, rng.choice(CHANCES, n)), truth

    assert held(draw, lambda values: tuple(estimate(values.tolist())["ci95"]), 400) >= 0.93
    for method in ("percentile", "BCa"):
        assert held(draw, lambda values, method=method: bootstrap(values, method, 400), 400) < 0.9


@pytest.mark.parametrize("n", [20, 100])
def test_where_changes_are_few_a_paired_gain_holds_and_the_bootstrap_does_not(n: int) -> None:
    after = 1 - (1 - CHANCES) * (1 - LATER)
    truth = float(np.mean((1 - CHANCES) ** 4 - (1 - after) ** 4))

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, float]:
        places = rng.integers(0, len(CHANCES), n)
        return pass_at_4(rng, after[places]) - pass_at_4(rng, CHANCES[places]), truth

    def told(changes: np.ndarray) -> tuple[float, float]:
        return paired_gain([0.0] * n, changes.tolist())[1]

    assert held(draw, told, 400) >= 0.93
    assert held(draw, lambda values: bootstrap(values, "percentile", 400), 400) < 0.9


@pytest.mark.parametrize("n", [20, 40])
@pytest.mark.parametrize("likeness", [(8, 2), (0.8, 0.2)])
def test_values_of_one_problem_count_for_less_than_those_of_many(n: int, likeness: tuple[float, float]) -> None:
    """Pairs of problems, some of which are nearly all ranked right and others nearly all wrong; 1 to 30 a problem."""

    def draw(rng: np.random.Generator) -> tuple[list[list[float]], float]:
        chances = rng.beta(*likeness, n)
        return [(rng.random(rng.integers(1, 31)) < p).astype(float).tolist() for p in chances], 0.8

    hits = {"by problem": 0, "by pair": 0}
    for seed in range(400):
        problems, truth = draw(np.random.default_rng(seed))
        for name, found in (
            ("by problem", estimate_clustered(problems)),
            ("by pair", estimate([value for values in problems for value in values])),
        ):
            low, high = found["ci95"]  # type: ignore[misc]
            hits[name] += low <= truth <= high
    assert hits["by problem"] / 400 >= 0.91
    assert hits["by pair"] / 400 < 0.85


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=30, max_size=300))
def test_one_value_a_problem_is_about_wilsons(values: list[float]) -> None:
    found = estimate_clustered([[value] for value in values])
    right = int(sum(values))
    assert found["ci95"] == pytest.approx(list(wilson(right, len(values))), abs=1 / len(values))
    assert (found["accuracy"], found["n"]) == (right / len(values), len(values))


def test_of_no_or_equal_values_little_is_known() -> None:
    assert estimate_clustered([])["ci95"] == [0.0, 1.0]
    assert estimate_clustered([[1.0] * 50, [1.0] * 50])["ci95"] == pytest.approx(list(wilson(2, 2)))
    assert estimate_clustered([[1.0, 0.0] * 50])["ci95"] == pytest.approx(list(wilson(0.5, 1)))
