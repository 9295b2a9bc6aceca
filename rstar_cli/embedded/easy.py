"""What the base of the easy-to-hard recipe is shown: right solutions, none of them longer than two steps.

To that come two things that make length as such no obstacle, and teach nothing of longer problems: several short
problems in one, where no step builds on another problem's, and meaningless chains, whose steps have nothing to do with
their text and which ask no question.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.problems.synthetic import LARGEST, QUESTIONS, WorkedProblem, make_worked
from rstar_cli.problems.synthetic_draft import WorkedStep
from rstar_cli.problems.synthetic_expressions import Expr, Number, Operand, Ref
from rstar_cli.records import SftRow

SHORT = {1: 0.4, 2: 0.6}
"""Weight of each level among what is shown."""
LONGEST = 6
"""Steps of the longest chain."""

_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z0-9])")
_NUMBER = re.compile(r"\d+")


def lessons(count: int, seed: int) -> list[SftRow]:
    """`count` right solutions of levels 1 and 2, as many problems of two or three such, and half as many chains.

    Args:
        count: problems of levels 1 and 2.
        seed: of all choices.
    """
    rng = random.Random(seed)
    short = make_worked(count, seed, levels=SHORT, split="train", rare_share=0.0)
    joined = [join(rng.sample(short, rng.choice((2, 2, 3))), rng) for _ in range(count)]
    words = make_worked(count // 2, seed + 1, levels=range(1, LONGEST + 1), split="train", rare_share=0.0)
    shown = [*short, *joined, *chains(words, count // 2, rng)]
    return [demonstrate(worked, rng, right=True) for worked in shown]


def join(problems: Sequence[WorkedProblem], rng: random.Random) -> WorkedProblem:
    """Several problems as one: text after text, then one question; the answer is the last problem's."""
    steps: list[WorkedStep] = []
    for problem in problems:
        places = range(len(steps), len(steps) + problem.level)
        steps += [WorkedStep(step.comment, step.right.relinked(places), (), step.kind) for step in problem.steps]
    text = " ".join([*(statement(problem) for problem in problems), rng.choice(QUESTIONS)])
    return WorkedProblem(text, len(steps), "joined", tuple(steps), problems[-1].answer, rare=False)


def statement(problem: WorkedProblem) -> str:
    """A problem's text without the question at its end."""
    return next(problem.text.removesuffix(f" {q}") for q in QUESTIONS if problem.text.endswith(q))


def chains(problems: Sequence[WorkedProblem], count: int, rng: random.Random) -> list[WorkedProblem]:
    """Sentences and steps of any problems, thrown together: the steps take numbers from the text, and that is all.

    Args:
        problems: where sentences, comments and formulas come from.
        count: how many chains.
        rng: decides.
    """
    sentences = [sentence for problem in problems for sentence in _SENTENCE.split(statement(problem))]
    shown = [step for problem in problems for step in problem.steps]
    formulas = [formula for _, formula in sorted({step.right.op.template: step.right for step in shown}.items())]
    comments = sorted({step.comment for step in shown})
    made: list[WorkedProblem] = []
    while len(made) < count:
        length = rng.randint(1, LONGEST)
        text = " ".join(rng.sample(sentences, max(1, length + rng.randint(-1, 1))))
        numbers = [int(number) for number in _NUMBER.findall(text)]
        if len(numbers) < 2:
            continue
        steps = [_apply(rng.choice(formulas), place, numbers, rng) for place in range(length)]
        values = _values(steps)
        if values:
            told = tuple(WorkedStep(rng.choice(comments), step, (), "chain") for step in steps)
            made.append(WorkedProblem(text, length, "chain", told, str(values[-1]), rare=False))
    return made


def _apply(formula: Expr, place: int, numbers: Sequence[int], rng: random.Random) -> Expr:
    """A formula with other operands: numbers of the text, and any values before step `place`."""

    def operand(old: Operand) -> Operand:
        if isinstance(old, int) or not place:
            return rng.choice(numbers)
        return Ref(rng.randrange(place))

    return Expr(formula.op, tuple(map(operand, formula.operands)))


def _values(steps: Sequence[Expr]) -> list[Number]:
    """The steps' values; none where a step can't be computed or its value is unwieldy."""
    values: list[Number] = []
    for step in steps:
        try:
            values.append(step.value(values))
        except (ArithmeticError, TypeError, ValueError):
            return []
        if not -LARGEST <= values[-1] <= LARGEST:
            return []
    return values
