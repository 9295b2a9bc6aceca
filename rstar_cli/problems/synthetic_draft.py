"""A synthetic problem in the making: its sentences, its steps and their values grow together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rstar_cli.problems.synthetic_expressions import Expr, Number, Op, Ref

NAMES = (
    "Ana", "Ben", "Cara", "Dan", "Ella", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kira", "Leo",
    "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Uma", "Vera", "Will", "Yara", "Zoe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkedStep:
    """One step of a right solution, with what a learner may take for it.

    Attributes:
        comment: what is done, in plain words.
        right: the right formula.
        wrong: formulas of misconceptions, the canonical one first; empty where none is typical.
        kind: the kind of operation (`share`, `percent`, ...); misconceptions go by it.
    """

    comment: str
    right: Expr
    wrong: tuple[Expr, ...]
    kind: str


@dataclass(slots=True)
class Draft:
    """Sentences and steps so far.

    Attributes:
        rng: the source of every choice.
        level: how many steps there shall be in the end.
        who: the person that the problem is about.
        unit: what the last value counts: `goods`, `dollars`, `km` or `number`.
        what: the same as a noun, for `goods` the thing itself.
        sentences: the text so far.
        steps: the right solution so far.
        values: the value of each step.
    """

    rng: random.Random
    level: int
    who: str = ""
    unit: str = "number"
    what: str = "number"
    sentences: list[str] = field(default_factory=list)
    steps: list[WorkedStep] = field(default_factory=list)
    values: list[Number] = field(default_factory=list)

    @property
    def last(self) -> Ref:
        """The newest value, to be built upon."""
        return Ref(len(self.steps) - 1)

    def say(self, *variants: str) -> None:
        """Add one of several sentences of the same meaning."""
        self.sentences.append(self.rng.choice(variants))

    def step(self, kind: str, comment: str, right: Expr, *wrong: Expr) -> Ref:
        """Add a step and return its value's reference."""
        self.values.append(right.value(self.values))
        self.steps.append(WorkedStep(comment, right, wrong, kind))
        return self.last


@dataclass(frozen=True, slots=True)
class Event:
    """A sentence that changes the last value by one number.

    Attributes:
        kind: the kind of operation.
        comment: what the step does.
        right: the formula over (last value, number).
        wrong: misconceptions over the same two, the canonical one first.
        number: draws the number; None where the event does not fit the last value.
        phrases: by unit, sentences with `{who}`, `{what}`, `{k}` and `{word}` (the number in words); an event does not
            happen to a unit that is missing.
        words: what `{word}` stands for.
        becomes: the unit afterwards; empty if unchanged.
    """

    kind: str
    comment: str
    right: Op
    wrong: tuple[Op, ...]
    number: Callable[[Draft], int | None]
    phrases: Mapping[str, tuple[str, ...]]
    words: Mapping[int, str] = field(default_factory=dict)
    becomes: str = ""

    def happen(self, draft: Draft) -> bool:
        """Add the event's sentence and step to a draft; False, and no change, where it does not fit."""
        if draft.unit not in self.phrases or (k := self.number(draft)) is None:
            return False
        variants = self.phrases[draft.unit]
        word = self.words.get(k, "")
        draft.say(*(v.format(who=draft.who, what=draft.what, k=k, word=word) for v in variants))
        last = draft.last
        draft.step(self.kind, self.comment, self.right(last, k), *(op(last, k) for op in self.wrong))
        if self.becomes:
            draft.unit = draft.what = self.becomes
        return True


def between(low: int, high: int) -> Callable[[Draft], int | None]:
    """Any number from low to high."""
    return lambda draft: draft.rng.randint(low, high)


def dividing(*choices: int) -> Callable[[Draft], int | None]:
    """One of the choices by which the last value, a positive integer, can be divided with more than 1 left."""

    def pick(draft: Draft) -> int | None:
        value = draft.values[-1]
        fits = [k for k in choices if isinstance(value, int) and value > k and value % k == 0]
        return draft.rng.choice(fits) if fits else None

    return pick


def percent(*choices: int) -> Callable[[Draft], int | None]:
    """One of the percentages that are whole of the last value, a positive integer."""

    def pick(draft: Draft) -> int | None:
        value = draft.values[-1]
        fits = [k for k in choices if isinstance(value, int) and value > 0 and value * k % 100 == 0]
        return draft.rng.choice(fits) if fits else None

    return pick


def whole(pick: Callable[[Draft], int | None], low: int, high: int) -> Callable[[Draft], int | None]:
    """As `pick`, where the last value is an integer from low to high."""

    def guarded(draft: Draft) -> int | None:
        value = draft.values[-1]
        return pick(draft) if isinstance(value, int) and low <= value <= high else None

    return guarded
