"""Two values are never equal, however they are written and whichever side they stand on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

from rstar_cli.grader import Grader
from rstar_cli.records import Verdict
from tests.property.answers import (
    WRAPPERS,
    Answer,
    accepts,
    coefficients,
    composed,
    decimal,
    distinct,
    finite_intervals,
    formulas,
    interval_of,
    intervals,
    joined,
    latex,
    list_of,
    matrices,
    matrix_of,
    near,
    nonzero,
    number,
    of_sympy,
    patient,
    pieces,
    polynomial,
    rationals,
    reals,
    rewritten,
    set_of,
    tuple_of,
    union_of,
    unions,
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        yield grader


def refuse(grader: Grader, golds: Sequence[str], predictions: Sequence[str]) -> None:
    """Assert that no text of one side equals one of the other, either way."""
    pairs = [pair for one in golds for other in predictions for pair in ((one, other), (other, one))]
    for pair, grade in zip(pairs, grader.grade(pairs), strict=True):
        assert grade.verdict is Verdict.INCORRECT, pair


def differ(grader: Grader, one: Answer, other: Answer, data: st.DataObject) -> None:
    """Assert that two answers differ in some of their spellings."""
    mine = [one.latex[0], data.draw(st.sampled_from(one.golds))]
    refuse(grader, mine, [other.latex[0], data.draw(st.sampled_from(other.golds)), data.draw(rewritten(other))])


# --- numbers ----------------------------------------------------------------------------------------------------------


def is_double(text: str) -> bool:
    """Whether a text is a decimal of as many digits as a double prints: such a one is equal to what it rounds."""
    return any(15 <= len(digits.replace(".", "").lstrip("0")) <= 17 for digits in re.findall(r"\d*\.\d+", text))


@patient(250)
@given(rationals, st.data())
def test_two_numbers_are_never_equal(grader: Grader, one: Fraction, data: st.DataObject) -> None:
    """Percent is a spelling: ten percent is written for ten."""
    values = [one, data.draw(near(one))]
    around = st.sampled_from([*WRAPPERS, "x = {}", r"{}\text{{ cm}}"])
    for _ in range(6):
        texts = [data.draw(st.sampled_from([*each.spellings, rf"{each.latex[0]}\%"])) for each in map(number, values)]
        if all(map(decimal, values)) or not any(map(is_double, texts)):
            mine, yours = (data.draw(around).format(text) for text in texts)
            refuse(grader, [mine], [yours])


@patient(60)
@given(st.integers(0, 10**30))
def test_neighbours_are_never_equal(grader: Grader, value: int) -> None:
    refuse(grader, [str(value)], [f"{value + 1:,}"])
    refuse(grader, [rf"{value}\pi"], [rf"{value + 1}\pi"])


# --- expressions ------------------------------------------------------------------------------------------------------


@patient(60)
@given(coefficients, st.data())
def test_polynomials_that_differ_in_a_coefficient_differ(grader: Grader, one: list[int], data: st.DataObject) -> None:
    other = list(one)
    other[data.draw(st.integers(0, len(one) - 1))] += data.draw(nonzero)
    assume(any(other[1:]))
    differ(grader, polynomial(one), polynomial(other), data)


@patient(60)
@given(composed, st.one_of(nonzero.map(sympy.Integer), st.just(sympy.Rational(1, 10**9)), st.just(sympy.pi)))
def test_a_constant_beside_an_expression_counts(grader: Grader, tree: sympy.Expr, constant: sympy.Expr) -> None:
    one, other = of_sympy("expression", tree), of_sympy("expression", tree + constant)
    for gold, prediction in zip(one.spellings, other.spellings, strict=True):
        assert not accepts(grader, gold, prediction)
        assert not accepts(grader, prediction, gold)
        assert not accepts(grader, gold, f"({gold}) + {latex(constant)}")


@patient(60)
@given(formulas)
def test_adding_one_always_counts(grader: Grader, text: str) -> None:
    assert not accepts(grader, text, f"({text})+1")


# --- intervals --------------------------------------------------------------------------------------------------------


@patient(80)
@given(finite_intervals, reals, st.data())
def test_intervals_that_differ_in_a_bracket_or_an_end_differ(
    grader: Grader, one: sympy.Interval, end: sympy.Expr, data: st.DataObject
) -> None:
    at, value = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([end, sympy.oo]))
    changed = list(one.args)
    changed[at] = value if at < 2 else not bool(changed[at])
    other = sympy.Interval(*changed)
    assume(isinstance(other, sympy.Interval) and other != one)
    differ(grader, interval_of(one), interval_of(other), data)


@patient(40)
@given(unions(), st.integers(0, 1), st.integers(2, 3), st.data())
def test_unions_that_differ_in_a_bracket_differ(
    grader: Grader, parts: list[sympy.Interval], at: int, side: int, data: st.DataObject
) -> None:
    flags = list(parts[at].args)
    flags[side] = not bool(flags[side])
    changed = list(parts)
    changed[at] = sympy.Interval(*flags)
    assume(changed != parts)
    differ(grader, union_of(parts), union_of(changed[::-1]), data)


@patient(40)
@given(intervals.filter(lambda one: sympy.oo in (-one.start, one.end)))
def test_no_interval_holds_infinity(grader: Grader, one: sympy.Interval) -> None:
    golds = interval_of(one).golds
    refuse(grader, golds, [golds[0].replace(r"(-\infty", r"[-\infty").replace(r"\infty)", r"\infty]")])


# --- collections ------------------------------------------------------------------------------------------------------


@patient(80)
@given(distinct(3, 6), st.data())
def test_tuples_that_differ_in_an_element_differ(grader: Grader, items: list[sympy.Expr], data: st.DataObject) -> None:
    new, *one = items
    at = data.draw(st.integers(0, len(one) - 1))
    before, after = one[:at], one[at + 1 :]
    others = [[*before, new, *after], [*before, *after], [*before, new, *one[at:]]]
    others += [[one[at], *before, *after] if at else [*after, one[0]]]
    differ(grader, tuple_of(one), tuple_of(data.draw(st.sampled_from(others))), data)


@patient(80)
@given(distinct(3, 6), st.data())
def test_sets_that_differ_in_an_element_differ(grader: Grader, items: list[sympy.Expr], data: st.DataObject) -> None:
    new, *one = items
    changed = data.draw(st.sampled_from([one[1:], [new, *one[1:]]]))
    differ(grader, set_of(one), set_of(changed), data)
    if len(changed) > 1:
        differ(grader, list_of(one), list_of(changed), data)


@patient(60)
@given(distinct())
def test_lists_that_differ_in_a_name_or_a_count_differ(grader: Grader, items: list[sympy.Expr]) -> None:
    """A bare list names a number as often as it is a solution, unlike a set."""
    texts = [f"x_{i} = {latex(item)}" for i, item in enumerate(items, 1)]
    refuse(grader, [", ".join(texts)], [", ".join([*texts[:-1], f"x_{len(items) + 1} = {latex(items[-1])}"])])
    refuse(grader, [f"x = {joined(items)}"], [f"y = {joined(items)}"])
    refuse(grader, list_of(items).golds, [joined([*items, items[0]])])


@patient(50)
@given(matrices, reals, st.data())
def test_matrices_that_differ_in_an_entry_differ(
    grader: Grader, one: sympy.Matrix, entry: sympy.Expr, data: st.DataObject
) -> None:
    other = one.copy()
    other[data.draw(st.integers(0, len(one) - 1))] = entry
    assume(other != one)
    differ(grader, matrix_of(one), matrix_of(other), data)
    differ(grader, matrix_of(one), matrix_of(one.col_join(one[:1, :])), data)


# --- any text ---------------------------------------------------------------------------------------------------------

UNRELATED = [r"\frac{7}{11}", "7/11", r"7\sqrt{7}", "(7, 11)", "[7, 11)", r"\{7, 77\}", r"x^{7}+7", r"\text{Thursday}"]
UNRELATED += ["7, 77"]


@patient(200)
@given(pieces)
def test_random_text_never_equals_another_answer(grader: Grader, text: str) -> None:
    """No piece holds a seven, so none of the texts is the same value but by a miracle."""
    pairs = [pair for gold in UNRELATED for pair in ((gold, text), (text, gold))]
    for pair, grade in zip(pairs, grader.grade(pairs), strict=True):
        assert grade.verdict is not Verdict.CORRECT, pair
