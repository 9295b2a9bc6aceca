"""Intervals against published values; estimators and votes against their definitions."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.metrics import (
    accuracy,
    accuracy_by_group,
    best_of,
    estimate,
    paired_gain,
    pass_at_k,
    vote,
    wilson,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)
VOTES = st.lists(st.tuples(st.none() | st.integers(0, 3), st.floats(0, 10)), max_size=12)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # statsmodels.stats.proportion.proportion_confint(method="wilson")
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2552911, 0.3661887),
        (500, 500, 0.9923756, 1.0),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= high <= 1


def test_nothing_tried_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert accuracy([])["n"] == 0


def test_levels_are_in_order() -> None:
    rows = [(3, True), (1, False), (3, False), (None, True), (1, True), (10, True)]
    by_level = accuracy_by_group(rows)
    assert list(by_level) == ["1", "3", "10"]
    assert by_level["3"]["accuracy"] == 0.5


def test_levels_take_shares() -> None:
    by_level = accuracy_by_group([(2, 0.25), (2, 0.75), (5, 1.0)])
    assert by_level["2"]["accuracy"] == 0.5
    assert by_level["5"] == accuracy([True])


@given(st.lists(st.booleans(), max_size=30))
def test_an_estimate_of_outcomes_is_their_accuracy(outcomes: list[bool]) -> None:
    assert estimate([float(right) for right in outcomes]) == accuracy(outcomes)


@given(SHARES)
def test_an_estimate_holds_the_mean_and_has_a_width(values: list[float]) -> None:
    found = estimate(values)
    low, high = found["ci95"]
    assert found["accuracy"] == pytest.approx(fmean(values))
    assert found["n"] == len(values)
    assert 0 <= low <= found["accuracy"] + 1e-12
    assert found["accuracy"] - 1e-12 <= high <= 1
    assert high - low > 1 / (len(values) + 4)


def test_an_estimate_of_shares_comes_close_to_wilson() -> None:
    nearly = estimate([0.999] * 30 + [0.001] * 70)["ci95"]
    assert nearly == pytest.approx(wilson(30, 100), abs=0.002)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_by_enumeration(n: int) -> None:
    for right in range(n + 1):
        samples = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            draws = [any(draw) for draw in combinations(samples, k)]
            assert pass_at_k(n, right, k) == pytest.approx(fmean(draws))


def test_pass_at_k_of_many_samples() -> None:
    assert pass_at_k(10_000, 1, 5_000) == 0.5
    assert pass_at_k(1_000, 0, 7) == 0.0
    assert pass_at_k(1_000, 994, 7) == 1.0


def test_votes() -> None:
    assert vote([4, None, 2, 2]) == 2
    assert vote([4, 2, 2, 4]) == 0  # a tie goes to the group seen first
    assert vote([4, 2, 2], [0.9, 0.2, 0.3]) == 0
    assert vote([None, 7], [5.0, 0.0]) == 1
    assert vote([None, None]) is None
    assert vote([0, 1, 0, 1, 0, 1], [0.1, 0.3, 0.2, 0.2, 0.3, 0.1]) == 0  # the same weights in another order: a tie


@given(VOTES, st.permutations(range(4)))
def test_a_vote_hangs_on_groups_not_on_their_numbers(votes: list[tuple[int | None, float]], names: list[int]) -> None:
    groups, weights = [group for group, _ in votes], [weight for _, weight in votes]
    renamed = [None if group is None else names[group] for group in groups]
    assert vote(renamed, weights) == vote(groups, weights)


@given(VOTES, st.integers(0, 12))
def test_a_sample_without_an_answer_changes_no_vote(votes: list[tuple[int | None, float]], place: int) -> None:
    place = min(place, len(votes))
    more = [*votes[:place], (None, 100.0), *votes[place:]]
    winner, after = (vote([g for g, _ in rows], [w for _, w in rows]) for rows in (votes, more))
    assert after == (None if winner is None else winner + (winner >= place))


@given(st.lists(st.none() | st.integers(0, 3), max_size=12))
def test_equal_weights_are_a_majority(groups: list[int | None]) -> None:
    winner = vote(groups)
    assert winner == vote(groups, [0.25] * len(groups))
    if winner is not None:
        counts = {group: groups.count(group) for group in groups if group is not None}
        assert counts[groups[winner]] == max(counts.values())
        assert groups.index(groups[winner]) == winner


def test_best_of() -> None:
    assert best_of([0.1, 0.9, 0.9, 1.0], [0, 1, 1, None]) == 1
    assert best_of([-1.0, None], [0, 0]) == 0
    assert best_of([None, 1.0], [0, None]) is None
    assert best_of([], []) is None


def test_paired_gain_against_a_published_table() -> None:
    """Approval of a prime minister, asked twice of 1,600: 794, 150, 86, 570 (Agresti 2002, section 10.1.1)."""
    cells = {(True, True): 794, (True, False): 150, (False, True): 86, (False, False): 570}
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    gain, interval = paired_gain([then for then, _ in pairs], [now for _, now in pairs])
    assert gain == -0.04
    assert interval == pytest.approx((-0.059, -0.021), abs=5e-4)


@given(PAIRS)
def test_a_paired_gain_lies_in_its_interval_and_turns_round(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [then for then, _ in pairs], [now for _, now in pairs]
    gain, (low, high) = paired_gain(before, after)
    assert -1 <= low <= gain <= high <= 1
    assert low < high
    assert paired_gain(after, before) == (-gain, (-high, -low))


def test_no_change_is_not_certainty() -> None:
    gain, (low, high) = paired_gain([True] * 20, [True] * 20)
    assert gain == 0
    assert low == -high < -0.05
    assert paired_gain([], []) == (0.0, (-1.0, 1.0))
