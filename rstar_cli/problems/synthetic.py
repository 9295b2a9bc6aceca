"""The synthetic generator: text problems with exact answers, made from a seed.

A problem is an opening (a story, an equation, ...) and then as many events as its level asks for, one step each. Train,
validation and test sets are disjoint by construction: a hash of the text alone decides where a problem belongs. Some
compositions of two operations are rare in training and as frequent as any other in validation and test.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rstar_cli.errors import UsageError
from rstar_cli.problems import synthetic_maths as maths
from rstar_cli.problems import synthetic_words as words
from rstar_cli.problems.synthetic_draft import Draft, Event, WorkedStep
from rstar_cli.records import Problem

Split = Literal["train", "validation", "test"]

LEVELS = (1, 2, 3, 4, 5)
MAX_LEVEL = 6
"""The longest problems; beyond `LEVELS`, for tests of generalisation only."""

QUESTIONS = (
    "What is the final value?",
    "What do we get?",
    "Give the result.",
    "What is the answer?",
    "Find the result.",
)
LARGEST = 10**7
"""No value on the way to an answer is larger."""

RARE = frozenset(
    {
        ("percent", "gap"),
        ("share", "each"),
        ("part", "scale"),
        ("scale", "percent"),
        ("add", "share"),
        ("square", "modulus"),
        ("digits", "multiply"),
        ("gcd", "subtract"),
        ("modulus", "square"),
        ("subtract", "gcd"),
    }
)
"""Kinds of two consecutive steps that training sets mostly leave out."""

VARIABLES = "abcdefgh"
"""What the values of a right solution's steps are called."""

_PATIENCE = 20_000
"""Draws in a row without a new problem after which the space is taken for exhausted."""


@dataclass(frozen=True, slots=True)
class WorkedProblem:
    """A problem with its right solution, step by step, and the mistakes one can make on the way.

    Attributes:
        text: the statement.
        level: number of steps, 1 to `MAX_LEVEL`.
        family: what it is about, e.g. `quadratics`.
        steps: the right solution; step i may use the values of steps before it.
        answer: exact: an integer, or a reduced fraction such as `7/3`.
        rare: whether it holds a composition of `RARE`.
    """

    text: str
    level: int
    family: str
    steps: tuple[WorkedStep, ...]
    answer: str
    rare: bool

    @property
    def program(self) -> str:
        """The right solution as Python that prints the answer."""
        lines: list[str] = []
        for name, step in zip(VARIABLES, self.steps, strict=False):
            if step.right.op.imported:
                lines.append(step.right.op.imported)
            lines.append(f"{name} = {step.right.render(VARIABLES)}")
        return "\n".join([*lines, f"print({VARIABLES[len(self.steps) - 1]})"]) + "\n"


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    opening: Callable[[Draft], None]
    events: tuple[Event, ...]
    min_level: int = 1


_WORDS = (
    _Family("word problems", words.story, words.EVENTS),
    _Family("money", words.money, words.EVENTS),
    _Family("rates", words.travel, words.EVENTS),
)
_MATHS = (
    _Family("linear equations", maths.linear, maths.NUMBER_EVENTS),
    _Family("systems", maths.system, maths.NUMBER_EVENTS, min_level=2),
    _Family("quadratics", maths.quadratic, maths.NUMBER_EVENTS),
    _Family("number theory", maths.number_theory, maths.NUMBER_EVENTS),
    _Family("counting", maths.counting, maths.NUMBER_EVENTS),
    _Family("sequences", maths.sequence, maths.NUMBER_EVENTS),
    _Family("areas", maths.area, maths.NUMBER_EVENTS),
    _Family("fractions", maths.fractions, maths.FRACTION_EVENTS),
)


def draw(rng: random.Random, level: int) -> WorkedProblem:
    """Draw one problem, whatever its split.

    Args:
        rng: the source of every choice.
        level: number of steps, 1 to `MAX_LEVEL`.

    Raises:
        UsageError: level out of range.
    """
    if not 1 <= level <= MAX_LEVEL:
        raise UsageError(f"level {level} is out of range", remedy=f"Give levels from 1 to {MAX_LEVEL}.")
    while True:
        told = rng.random() < 0.5
        family = rng.choice([f for f in (_WORDS if told else _MATHS) if f.min_level <= level])
        draft = Draft(rng, level)
        if told:
            words.pick_person(draft)
        family.opening(draft)
        if _grow(draft, family.events, aside=words.aside if told else None):
            return _finish(draft, family.name)


def _grow(draft: Draft, events: Sequence[Event], aside: Callable[[Draft], None] | None) -> bool:
    """Let events happen until the level is reached; False where that fails or the numbers become unwieldy."""
    while len(draft.steps) < draft.level:
        if aside is not None and draft.level >= 3 and draft.rng.random() < 0.12:
            aside(draft)
            aside = None
        fresh = [event for event in events if event.kind != draft.steps[-1].kind]
        if not any(event.happen(draft) for event in draft.rng.sample(fresh, len(fresh))):
            return False
    return len(draft.steps) == draft.level and all(-LARGEST <= value <= LARGEST for value in draft.values)


def _finish(draft: Draft, family: str) -> WorkedProblem:
    kinds = [step.kind for step in draft.steps]
    return WorkedProblem(
        text=" ".join([*draft.sentences, draft.rng.choice(QUESTIONS)]),
        level=draft.level,
        family=family,
        steps=tuple(draft.steps),
        answer=str(draft.values[-1]),
        rare=any(pair in RARE for pair in itertools.pairwise(kinds)),
    )


def split_of(text: str) -> Split:
    """The set that a problem belongs to, by a hash of its text: 70 % train, 10 % validation, 20 % test."""
    tenth = int(hashlib.sha256(text.encode()).hexdigest()[-8:], 16) % 10
    return "test" if tenth < 2 else "validation" if tenth == 2 else "train"


def problem_id(text: str) -> str:
    """The id of the synthetic problem with this text."""
    return f"syn-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def make_worked(
    count: int,
    seed: int,
    levels: Sequence[int] | Mapping[int, float] = LEVELS,
    split: Split = "train",
    rare_share: float = 0.1,
) -> list[WorkedProblem]:
    """Make distinct problems of one split; equal arguments give equal lists.

    Args:
        count: how many.
        seed: of all choices.
        levels: the levels, equally likely, or a weight for each.
        split: the set that they belong to.
        rare_share: in `train`, the share of problems with rare compositions that is kept, 0 to 1.

    Raises:
        UsageError: a level is out of range, or there are not that many distinct problems.
    """
    rng = random.Random(seed)
    weights = dict(levels) if isinstance(levels, Mapping) else dict.fromkeys(levels, 1.0)
    found: dict[str, WorkedProblem] = {}
    misses = 0
    while len(found) < count:
        worked = draw(rng, rng.choices(list(weights), list(weights.values()))[0])
        new = split_of(worked.text) == split and worked.text not in found
        if new and (split != "train" or not worked.rare or rng.random() < rare_share):
            found[worked.text] = worked
            misses = 0
        elif (misses := misses + 1) > _PATIENCE:
            raise UsageError(
                f"only {len(found)} of {count} distinct {split} problems of levels {sorted(weights)} could be made",
                remedy="Ask for fewer problems, or for more levels.",
            )
    return list(found.values())


def make_problems(
    count: int, seed: int, levels: Sequence[int] | Mapping[int, float] = LEVELS, split: Split = "train"
) -> list[Problem]:
    """As `make_worked`, as rows of `problems.jsonl`, with extra fields: `rare` compositions, the right `program`."""
    return [
        Problem.model_validate(
            {
                "id": problem_id(worked.text),
                "problem": worked.text,
                "answer": worked.answer,
                "source": "synthetic",
                "level": worked.level,
                "subject": worked.family,
                "rare": worked.rare,
                "program": worked.program,
            }
        )
        for worked in make_worked(count, seed, levels, split)
    ]
