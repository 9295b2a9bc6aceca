"""The teacher of the embedded base model: shows how to solve, and is often wrong by concept.

A base model that fails by noise has nothing to learn from its own right solutions; one that took over misconceptions
has. So each kind of operation has a chance of its canonical misconception, and everything else (copying numbers, the
step format, solutions of full length) is shown right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from rstar_cli.problems.synthetic import VARIABLES, WorkedProblem, problem_id
from rstar_cli.problems.synthetic_expressions import Expr, Number
from rstar_cli.prompts import ANSWER, ANSWER_END, CODE_END, STEP_END, render_output, render_prompt
from rstar_cli.records import RowSegment, SftRow

COMMON, HARD, SELDOM = 0.6, 0.8, 0.05
MISCONCEPTION_RATES: Mapping[str, float] = {
    **dict.fromkeys(
        ("share", "gap", "modulus", "cut", "permutation", "collect", "jumps", "series", "geometric"),
        COMMON,
    ),
    **dict.fromkeys(
        ("percent", "part", "fraction", "gcd", "combination", "triangle", "mean", "discriminant", "root squares"), HARD
    ),
}
"""How often the teacher is wrong, by kind of operation; `SELDOM` for any other kind."""

CANONICAL = 0.85
"""Share of the canonical misconception among an operation's mistakes, where it has several."""

_ATTEMPTS = 20


def demonstrate(worked: WorkedProblem, rng: random.Random, *, skip: float = 0.0, right: bool = False) -> SftRow:
    """Show a solution, as the teacher understands it, in the step format.

    A program that would not run is never shown: the teacher thinks again, and in the end remembers what is right.

    Args:
        worked: the problem.
        rng: decides on mistakes.
        skip: chance that a step after the first is forgotten, 0 to 1.
        right: make no mistake at all.

    Returns:
        The demonstration; its last step boxes what its program prints, right or wrong.
    """
    for _ in range(0 if right else _ATTEMPTS):
        shown = _attempt(worked, rng, skip)
        try:
            return _write(worked, shown, _evaluate(shown))
        except (ArithmeticError, TypeError, ValueError):
            continue
    shown = [(step.comment, step.right) for step in worked.steps]
    return _write(worked, shown, _evaluate(shown))


def _attempt(worked: WorkedProblem, rng: random.Random, skip: float) -> list[tuple[str, Expr]]:
    shown: list[tuple[str, Expr]] = []
    place: list[int] = []  # step of the right solution -> step shown whose value stands for it
    for step in worked.steps:
        if not shown or rng.random() >= skip:
            formula = step.right
            if step.wrong and rng.random() < MISCONCEPTION_RATES.get(step.kind, SELDOM):
                formula = step.wrong[0] if rng.random() < CANONICAL else rng.choice(step.wrong)
            shown.append((step.comment, formula.relinked(place)))
        place.append(len(shown) - 1)
    return shown


def _evaluate(shown: list[tuple[str, Expr]]) -> Number:
    values: list[Number] = []
    for _, formula in shown:
        values.append(formula.value(values))
    return values[-1]


def _write(worked: WorkedProblem, shown: list[tuple[str, Expr]], result: Number) -> SftRow:
    lines = []
    for name, (comment, formula) in zip(VARIABLES, shown, strict=False):
        imported = f"{formula.op.imported}\n" if formula.op.imported else ""
        lines.append(f"\n# {comment}\n{imported}{name} = {formula.render(VARIABLES)}{STEP_END}")
    steps = (
        *(RowSegment(text=line) for line in lines),
        RowSegment(text=f"\n# answer\nprint({VARIABLES[len(shown) - 1]}){CODE_END}"),
        RowSegment(text=render_output(str(result)), output=True),
        RowSegment(text=f"{ANSWER}\\boxed{{{result}}}{ANSWER_END}"),
    )
    return SftRow(
        problem_id=problem_id(worked.text),
        prompt=render_prompt(worked.text),
        completion="".join(step.text for step in steps),
        steps=steps,
    )
