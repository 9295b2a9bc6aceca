"""Intervals against published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.metrics import accuracy, accuracy_by_level, wilson


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
    by_level = accuracy_by_level(rows)
    assert list(by_level) == ["1", "3", "10"]
    assert by_level["3"]["accuracy"] == 0.5
