"""The grader is reflexive, symmetric, blind to notation, and has a grade for any text in time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.grader import LENIENT, Grader, extract_answer, group_answers
from rstar_cli.grader.exact import MAX_BITS, exact_value
from rstar_cli.grader.expression import UnparsedError, parse
from rstar_cli.grader.normalize import normal_form
from rstar_cli.protocols import Grade
from rstar_cli.records import Verdict
from tests.property.answers import (
    Answer,
    accepts,
    answers,
    anything,
    close_numbers,
    distinct,
    number,
    patient,
    pieces,
    rewritten,
    roots,
    sets,
    singles,
    small,
    some_intervals,
    surd,
    tuple_of,
    tuples,
)

SLOWEST = 20.0
"""Seconds for one case, on a busy machine; the grader's own limit is 0.6 of processor time."""
Votes = list[tuple[int | None, str | None]]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        yield grader


@pytest.fixture(scope="module")
def lenient() -> Iterator[Grader]:
    with Grader(workers=2, policy=LENIENT) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        yield grader


# --- notation ---------------------------------------------------------------------------------------------------------


@patient(300)
@given(answers, st.data())
def test_an_answer_equals_its_rewritings(grader: Grader, answer: Answer, data: st.DataObject) -> None:
    golds = [answer.latex[0], data.draw(st.sampled_from(answer.golds))]
    predictions = [*answer.spellings, data.draw(rewritten(answer)), data.draw(rewritten(answer))]
    pairs = [(gold, prediction) for gold in golds for prediction in predictions]
    for pair, grade in zip(pairs, grader.grade(pairs), strict=True):
        assert grade.verdict is Verdict.CORRECT, pair


@patient(200)
@given(st.one_of(answers.flatmap(rewritten), pieces.filter(str.strip)))
def test_every_text_equals_itself(grader: Grader, text: str) -> None:
    assert accepts(grader, text, f" {text} ")


# --- either side, either policy, three at once ------------------------------------------------------------------------


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[str, str]:
    """Golds of one kind, equal or not."""
    kind = draw(st.sampled_from([singles, tuples, sets, some_intervals]))
    one, other = draw(kind), draw(kind)
    golds = [replace(each, predicted=()) for each in (one, draw(st.sampled_from([one, other])))]
    first, second = [draw(st.one_of(st.sampled_from(each.golds), rewritten(each))) for each in golds]
    return first, second


two_golds = st.one_of(neighbours(), close_numbers().map(lambda texts: texts[:2]))


@patient(200)
@given(two_golds)
def test_the_verdict_does_not_depend_on_the_side(grader: Grader, golds: tuple[str, str]) -> None:
    assert accepts(grader, *golds) == accepts(grader, *golds[::-1])


@patient(150)
@given(close_numbers())
def test_equality_of_numbers_is_transitive(grader: Grader, texts: tuple[str, str, str]) -> None:
    first, second, third = (text.replace(" cm", "") for text in texts)
    if accepts(grader, first, second) and accepts(grader, second, third):
        assert accepts(grader, first, third)


@patient(100)
@given(two_golds, answers, st.data())
def test_lenient_accepts_what_strict_accepts(
    grader: Grader, lenient: Grader, golds: tuple[str, str], answer: Answer, data: st.DataObject
) -> None:
    for pair in (golds, (data.draw(st.sampled_from(answer.golds)), data.draw(rewritten(answer)))):
        assert accepts(lenient, *pair) or not accepts(grader, *pair)


# --- groups -----------------------------------------------------------------------------------------------------------


@st.composite
def ballots(draw: st.DrawFn) -> Votes:
    """Votes: the number of a value and a spelling of it, without names and units; some have none."""
    values = st.one_of(small.map(number), roots.map(surd), distinct().map(tuple_of))
    votes: Votes = [(None, draw(st.sampled_from([None, "", " \n"])))]
    for i, value in enumerate(draw(st.lists(values, min_size=1, max_size=4, unique_by=lambda each: each.latex[0]))):
        votes += [(i, draw(rewritten(replace(value, kind="plain")))) for _ in range(draw(st.integers(1, 3)))]
    return draw(st.permutations(votes))


def renumbered(names: Sequence[int | None]) -> list[int | None]:
    """Numbers from 0 on in the order of first appearance."""
    order = list(dict.fromkeys(name for name in names if name is not None))
    return [None if name is None else order.index(name) for name in names]


@patient(60)
@given(ballots(), st.randoms(use_true_random=False))
def test_equal_answers_share_a_number_in_any_order(grader: Grader, votes: Votes, shuffler: random.Random) -> None:
    shuffled = list(votes)
    shuffler.shuffle(shuffled)
    for each in (votes, shuffled):
        assert group_answers([text for _, text in each], grader) == renumbered([name for name, _ in each])


# --- any text ---------------------------------------------------------------------------------------------------------


@patient(250)
@given(anything, anything)
def test_every_text_gets_a_grade_in_time(grader: Grader, gold: str, prediction: str) -> None:
    for pair in [(gold, prediction), (prediction, gold), (gold, gold), (r"\frac{7}{11}", prediction)]:
        start = time.monotonic()
        (grade,) = grader.grade([pair])
        assert time.monotonic() - start < SLOWEST, pair
        assert isinstance(grade, Grade)
        assert grade.decided_by not in ("", "crash"), pair


@patient(250)
@given(anything)
def test_extraction_finds_text_or_nothing(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@patient(100)
@given(anything)
def test_the_normal_form_is_not_much_longer(text: str) -> None:
    assert len(normal_form(text)) <= 8 * len(text) + 8


@patient(100)
@given(st.text(alphabet="0123456789+-*/^!(){}., e", max_size=60))
def test_exact_values_are_bounded(text: str) -> None:
    try:
        value = exact_value(parse(normal_form(text)))
    except UnparsedError:
        return
    assert value is None or value.numerator.bit_length() <= MAX_BITS
