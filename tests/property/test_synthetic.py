"""Properties of the synthetic generator, whatever the seed."""

import random
import re
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.problems.synthetic import LARGEST, MAX_LEVEL, draw, make_worked, split_of

seeds = st.integers(0, 2**63)
IN_WORDS = {
    2: ("half", "doubles"),
    3: ("third", "triples"),
    4: ("quarter", "quadruples"),
    5: ("fifth",),
}
levels = st.integers(1, MAX_LEVEL)


@given(seeds, levels)
def test_a_drawn_problem_is_whole(seed, level):
    worked = draw(random.Random(seed), level)
    assert worked.level == level == len(worked.steps)
    assert re.fullmatch(r"-?\d+(/\d+)?", worked.answer)
    assert str(Fraction(worked.answer)) == worked.answer
    assert re.fullmatch(r"[A-Za-z0-9 .,?+*/^=-]+", worked.text)
    assert not re.search(r"[{}]|  ", worked.text)


@given(seeds, levels)
def test_right_formulas_give_the_answer(seed, level):
    worked = draw(random.Random(seed), level)
    values = []
    for step in worked.steps:
        values.append(step.right.value(values))
        assert abs(values[-1]) <= LARGEST
        assert isinstance(values[-1], int | Fraction)
    assert str(values[-1]) == worked.answer


@given(seeds, levels)
def test_every_literal_of_a_solution_is_told(seed, level):
    worked = draw(random.Random(seed), level)
    told = set(re.findall(r"\d+|[a-z]+", worked.text))
    for step in worked.steps:
        for i, operand in enumerate(step.right.operands):
            if isinstance(operand, int) and f"{{{i}}}" in step.right.op.template:
                assert str(operand) in told or told & set(IN_WORDS[operand])


@given(seeds, st.sampled_from(["train", "validation", "test"]))
def test_a_set_holds_only_its_split(seed, split):
    made = make_worked(15, seed, split=split)
    assert [split_of(worked.text) for worked in made] == [split] * 15
    assert len({worked.text for worked in made}) == 15


@given(seeds)
def test_a_longer_set_begins_with_the_shorter(seed):
    assert make_worked(12, seed)[:5] == make_worked(5, seed)
