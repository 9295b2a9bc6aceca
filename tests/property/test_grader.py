"""Properties of the grader: reflexive, blind to notation, never blind to value, always in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstar_cli.grader import Grader, extract_answer
from rstar_cli.grader.exact import MAX_BITS, exact_value
from rstar_cli.grader.expression import UnparsedError, parse
from rstar_cli.grader.normalize import normal_form
from rstar_cli.records import Verdict

TIMEOUT = 2.0
SLACK = 4.0
"""Seconds that a kill and the start of the next worker may add."""

PATIENT = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure; `test_always_answers_in_time` measures by itself."""

rationals = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)
symbols = st.sampled_from(["x", "y", "a_1", r"\alpha", r"\pi", "e"])
PIECES = (
    r"\frac \sqrt \sqrt[3] { } ( ) [ ] ^ _ + - * / = < \le \cup \pm \cdot \sin \ln \log_2 \binom \text{ \boxed{ \left( "
    r"\right) \begin{pmatrix} \end{pmatrix} & \\ , ; \{ \} | ! % $ \% \circ ^\circ \infty \pi x y 0 1 2 10 99 0.5 1e9 "
    r"\sum_{k=1}^{9} \int \lim and or A : . '"
)
pieces = st.sampled_from(PIECES.split(" "))
latex = st.lists(pieces, max_size=40).map("".join)


def expressions(depth: int = 3) -> st.SearchStrategy[str]:
    """LaTeX of expressions that have a meaning."""
    leaves = st.one_of(st.integers(0, 99).map(str), symbols)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
            st.tuples(inner, inner).map(lambda p: f"({p[0]}+{p[1]})"),
            st.tuples(inner, inner).map(lambda p: rf"{p[0]} \cdot {p[1]}"),
            inner.map(lambda a: rf"\sqrt{{{a}}}"),
            inner.map(lambda a: rf"\sin({a})"),
            st.tuples(inner, st.integers(0, 4)).map(lambda p: f"({p[0]})^{{{p[1]}}}"),
        ),
        max_leaves=2**depth,
    )


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout=TIMEOUT) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        yield grader


def verdict(grader: Grader, gold: str, prediction: str) -> Verdict:
    return grader.grade([(gold, prediction)])[0].verdict


def spellings(value: Fraction) -> list[str]:
    """The same number in several notations."""
    top, bottom = value.numerator, value.denominator
    sign = "-" if top < 0 else ""
    texts = [
        f"{top}/{bottom}",
        rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}",
        rf"\dfrac{{{top}}}{{{bottom}}}",
        f"${value}$",
    ]
    whole, rest = divmod(abs(top), bottom)
    if whole and rest:
        texts.append(rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}")
    if bottom == 1:
        texts += [f"{top:,}", f"{top}.0", f"{top:,}".replace(",", "{,}"), f"{top}."]
    return texts


@PATIENT
@given(rationals, st.data())
def test_one_number_in_two_notations_is_correct(grader: Grader, value: Fraction, data: st.DataObject) -> None:
    gold, prediction = data.draw(st.sampled_from(spellings(value))), data.draw(st.sampled_from(spellings(value)))
    assert verdict(grader, gold, prediction) is Verdict.CORRECT


@PATIENT
@given(rationals, rationals, st.data())
def test_two_numbers_are_never_equal(grader: Grader, one: Fraction, other: Fraction, data: st.DataObject) -> None:
    if one == other:
        return
    gold, prediction = data.draw(st.sampled_from(spellings(one))), data.draw(st.sampled_from(spellings(other)))
    assert verdict(grader, gold, prediction) is Verdict.INCORRECT


@PATIENT
@given(st.integers(-(10**30), 10**30), st.sampled_from([1, -1]))
def test_neighbours_are_never_equal(grader: Grader, value: int, step: int) -> None:
    assert verdict(grader, str(value), f"{value + step:,}") is Verdict.INCORRECT
    assert verdict(grader, rf"{abs(value)}\pi", rf"{abs(value) + 1}\pi") is Verdict.INCORRECT


@PATIENT
@given(latex)
def test_every_text_is_equal_to_itself(grader: Grader, text: str) -> None:
    if text.strip():
        assert verdict(grader, text, f" {text} ") is Verdict.CORRECT


@PATIENT
@given(expressions())
def test_notation_does_not_count(grader: Grader, text: str) -> None:
    rewritten = text.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)").replace("+", " + ")
    assert verdict(grader, text, f"${rewritten}$.") is Verdict.CORRECT
    assert verdict(grader, text, rf"So it is \boxed{{{rewritten}}}.") is Verdict.CORRECT


@PATIENT
@given(expressions())
def test_adding_one_always_counts(grader: Grader, text: str) -> None:
    assert verdict(grader, text, f"({text})+1") is not Verdict.CORRECT


@PATIENT
@given(expressions(), expressions())
def test_single_expressions_compare_the_same_both_ways(grader: Grader, one: str, other: str) -> None:
    assert (verdict(grader, one, other) is Verdict.CORRECT) == (verdict(grader, other, one) is Verdict.CORRECT)


@PATIENT
@given(latex, latex)
def test_always_answers_in_time(grader: Grader, gold: str, prediction: str) -> None:
    start = time.monotonic()
    (grade,) = grader.grade([(gold, prediction)])
    assert time.monotonic() - start < TIMEOUT + SLACK
    assert grade.decided_by


@PATIENT
@given(latex)
def test_extraction_finds_text_or_nothing(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@PATIENT
@given(latex)
def test_the_normal_form_is_stable(text: str) -> None:
    once = normal_form(text)
    assert len(once) <= 8 * len(text) + 8


@PATIENT
@given(st.text(alphabet="0123456789+-*/^!(){}., e", max_size=60))
def test_exact_values_are_bounded(text: str) -> None:
    try:
        value = exact_value(parse(normal_form(text)))
    except UnparsedError:
        return
    if value is not None:
        assert value.numerator.bit_length() <= MAX_BITS
