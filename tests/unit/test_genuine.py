"""Right by the right way, or by luck."""

from __future__ import annotations

import itertools

import pytest

from rstar_cli.problems.genuine import is_genuine
from rstar_cli.problems.synthetic import make_problems, make_worked

RIGHT = "a = 2 * 3\nb = a + 4 * 5\nprint(b)\n"


@pytest.mark.parametrize(
    "program",
    [
        RIGHT,
        "# other names, and a step more\nx = 4 * 5\ntotal = 2 * 3\ny = total + x\nprint(y)",
        "print(5 * 4 + 3 * 2)",
        "import math\nunused = math.gcd(2, 3)\n" + RIGHT,
    ],
)
def test_names_order_and_cut_do_not_matter(program: str) -> None:
    assert is_genuine(program, RIGHT)


@pytest.mark.parametrize(
    "program",
    [
        "print(26)",
        "a = 2 * 3\nb = a + 5 * 5 - 5\nprint(b)",
        "a = 3 * 2\nprint(a * 4 + 2)",
        "a = 2 * 3\nb = a + 4 * 5",
        "for a in [26]:\n    print(a)",
        "print(2 * 3 + 4 * 5",
        "",
    ],
)
def test_luck_is_not_genuine(program: str) -> None:
    assert not is_genuine(program, RIGHT)


def test_order_matters_where_it_does() -> None:
    assert not is_genuine("print(2 - 3)", "print(3 - 2)")
    assert not is_genuine("print(2 // 3)", "print(3 // 2)")
    assert not is_genuine("print(2 ** 3)", "print(3 ** 2)")
    assert is_genuine("a = 9 - 2\nprint(a - 3)", "b = 9 - 3\nprint(b - 2)")
    assert is_genuine("import math\nprint(math.gcd(4, 6))", "from math import gcd\nprint(gcd(6, 4))")


def test_a_program_that_blows_up_is_refused_quickly() -> None:
    doubling = "a = 1 + 1\n" + "a = a + a\n" * 200 + "print(a)\n"
    assert not is_genuine(doubling, RIGHT)
    assert not is_genuine("print(" + "-" * 50_000 + "1)", RIGHT)


def test_the_generators_own_programs_are_genuine_and_no_others() -> None:
    worked = make_worked(300, 11, levels=(1, 2, 3, 4, 5, 6))
    for one, other in itertools.pairwise(worked):
        assert is_genuine(one.program, one.program)
        assert is_genuine(one.program, other.program) == (one.program == other.program)


def test_a_synthetic_problem_tells_its_right_program() -> None:
    for problem, worked in zip(make_problems(20, 5), make_worked(20, 5), strict=True):
        assert (problem.model_extra or {})["program"] == worked.program
