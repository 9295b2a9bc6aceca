r"""Whether two answers are the same: the rules, cheap ones first, each with what it leaves undecided.

A rule answers True, False, or None for "not by me". `Comparison` without an oracle is pure and fast and runs in our own
process; what it leaves undecided goes to the worker process, where the same rules run with an oracle (`symbolic`).

Policy, in short (strict: a false accept is a poisoned reward; see `policy` for what can be switched):

- exact numbers have no tolerance: 9999 is not 10000, 0.33 is not 1/3; 10% is 10, not 0.1;
- a unit or the name of the unknown (`x=5`, `5 cm`) that one side omits is overlooked, two that differ are not;
- brackets count: (0,9) is not [0,9); a bare list has no order, a tuple has; a list is not its first element;
- a solved form (`x = 5`, `x > 5`) is not matched by the unsolved equation.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, Protocol

from rstar_cli.grader.exact import BoundsError, exact_value
from rstar_cli.grader.expression import Call, Expression, Number, Symbol
from rstar_cli.grader.labels import (
    symbols_of,
    tree_of,
    unnamed,
    value_of,
)
from rstar_cli.grader.normalize import normal_form, string_form, within_bounds
from rstar_cli.grader.policy import STRICT, Policy
from rstar_cli.grader.realset import NotASetError, SetReader, may_be_set
from rstar_cli.grader.rules import StructureRules, UndecidedError
from rstar_cli.grader.structure import shape_of
from rstar_cli.grader.vocabulary import choice_of, quantities, same_unit, split_unit
from rstar_cli.grader.words import number_in_words, time_of_day, with_digits

STAGES = ("string", "number", "structure", "numeric", "symbolic", "bounds")
"""Where a decision can fall, from the cheapest on; `numeric` and `symbolic` only in the worker.

`bounds`: the prediction is too large to be compared (length, nesting, size of its value), the gold is not."""

_MAX_EXPRESSION = 1_000
"""Characters of a single expression."""
_NUMERAL = re.compile(r"[\dA-F]+_(?:\{\d+\}|\d+)|0[xb][\dA-Fa-f]+|\d{4}-\d\d-\d\d")
_MEMBER = re.compile(r"\\in(?![a-zA-Z])")
_FINITE = {"set", "list", "single"}
_LETTERS = re.compile(r"[a-zA-Z]{3,}")
_UNREADABLE = re.compile(r"\d \d|\d_|'|\\ldots|\\\$|%|\\angle|\\equiv|\\frac\d{3}")
_WORD = re.compile(r"\\text\{|(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_VECTOR_PRODUCT = re.compile(r"\\(?:vec|overrightarrow).*\\(?:times|cdot)(?![a-zA-Z])")


class Oracle(Protocol):
    """What only the worker process can tell."""

    stage: str

    def equal(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None) -> bool | None:
        """Whether two single expressions (normal forms; trees where they parsed) are equal."""

    def proportional(self, gold: str, prediction: str, *, positive: bool) -> bool | None:
        """Whether two differences of sides (texts) are one multiple of the other."""

    def value(self, tree: Expression) -> Fraction | None:
        """The value of a real constant to 40 digits; None where it has none."""

    def is_rounding(self, decimal: Number, value: Expression) -> bool:
        """Whether a decimal is what a constant rounds to at that many places."""


Told = bool | None | Literal["other"]


class Comparison:
    """One comparison of two answers.

    Args:
        oracle: the worker's means; None in our own process.
        policy: what counts as equal.

    Attributes:
        stage: the most expensive of `STAGES` that was asked so far.
    """

    def __init__(self, oracle: Oracle | None = None, policy: Policy = STRICT) -> None:
        self.oracle = oracle
        self.policy = policy
        self.stage = "string"
        self.sets = SetReader(self._value)
        self._rules = StructureRules(self)

    def answers(self, gold: str, prediction: str) -> bool | None:
        """Compare two answer texts.

        Raises:
            BoundsError: the gold is too long or too deeply nested to be compared but by its letters.
        """
        if gold.strip() == prediction.strip():
            return True
        normal = [normal_form(text) if within_bounds(text) else "" for text in (gold, prediction)]
        if not within_bounds(gold) or not within_bounds(normal[0]):
            raise BoundsError("the gold answer is too long or too deeply nested")
        if not within_bounds(prediction) or not within_bounds(normal[1]):
            self.stage = "bounds"
            return False
        try:
            return self.equal(*normal)
        except RecursionError:
            raise BoundsError("an answer is too deeply nested") from None

    def equal(self, gold: str, prediction: str) -> bool | None:
        """Compare two normal forms."""
        letters = string_form(gold)
        if letters and letters == string_form(prediction):
            return True
        if not letters or not string_form(prediction):
            return False
        gold, prediction = (number_in_words(string_form(text)) or text for text in (gold, prediction))
        for rule in (self._times, self._choices, self._amounts, self._real_sets):
            told = rule(gold, prediction)
            if told != "other":
                return told
        return self._rules.shapes(shape_of(value_of(gold)), shape_of(value_of(prediction)))

    # --- what is told from the whole text; "other" where it is not such a text ---------------------------------------

    def _times(self, gold: str, prediction: str) -> Told:
        time, other_time = time_of_day(string_form(gold)), time_of_day(string_form(prediction))
        if time is None or other_time is None:
            return "other"
        (seconds, half), (other_seconds, other_half) = time, other_time
        return seconds == other_seconds and (half == other_half or not half or not other_half)

    def _choices(self, gold: str, prediction: str) -> Told:
        mine, yours = choice_of(gold), choice_of(prediction)
        if mine and yours:
            (letter, text), (other_letter, other_text) = mine, yours
            if letter != other_letter:
                return False
            return self._beside_letter(text, other_text) if text and other_text else True
        if mine and mine[1] and self._beside_letter(mine[1], prediction):
            return True
        if yours and yours[1] and not mine and len(string_form(gold)) > 1:
            return self._beside_letter(gold, yours[1])
        return "other"

    def _beside_letter(self, gold: str, prediction: str) -> bool | None:
        """Compare texts beside a letter, in which no further letter is looked for."""
        gold, prediction = normal_form(gold), normal_form(prediction)
        same = string_form(gold) == string_form(prediction)
        return same or self._rules.shapes(shape_of(gold), shape_of(prediction))

    def _amounts(self, gold: str, prediction: str) -> Told:
        mine, yours = quantities(gold), quantities(prediction)
        if not mine or not yours:
            return "other"
        return self._rules.ordered(mine, yours) if len(mine) == len(yours) else False

    def _real_sets(self, gold: str, prediction: str) -> Told:
        gold, prediction = value_of(gold), value_of(prediction)
        if not may_be_set(gold) and not may_be_set(prediction):
            return "other"
        (name, rest), (other_name, other_rest) = unnamed(gold), unnamed(prediction)
        is_named = (rest, other_rest) != (gold, prediction) and (not name or not other_name or name == other_name)
        finite = _MEMBER.search(gold + prediction) and {shape_of(rest).kind, shape_of(other_rest).kind} <= _FINITE
        interval = {"tuple", "square"} if name or other_name else set()
        both = all(may_be_set(text) or shape_of(text).kind in interval for text in (rest, other_rest))
        if is_named and (finite or both):
            return self.equal(rest, other_rest)
        try:
            sets = self.sets.read(gold), self.sets.read(prediction)
            self.reach("structure")
            return self.sets.same(*sets, self.equal)
        except NotASetError:
            return "other"
        except UndecidedError:
            return None

    def reach(self, stage: str) -> None:
        """Note that a stage was asked."""
        if STAGES.index(stage) > STAGES.index(self.stage):
            self.stage = stage

    def _value(self, text: str) -> Fraction | None:
        """The value of a constant text; None where it has none.

        Raises:
            UndecidedError: it takes an oracle.
        """
        tree = tree_of(text)
        if tree is None or symbols_of(tree) - {"pi", "e"}:
            return None
        value = exact_value(tree)
        if value is not None:
            return value
        if self.oracle is None:
            raise UndecidedError
        self.reach("numeric")
        return self.oracle.value(tree)

    # --- single expressions ------------------------------------------------------------------------------------------

    def single(self, gold: str, prediction: str) -> bool | None:
        """Compare two single expressions."""
        if len(gold) > _MAX_EXPRESSION:
            raise BoundsError("the gold expression is too long")
        if len(prediction) > _MAX_EXPRESSION:
            self.reach("bounds")
            return False
        (gold, g_unit), (prediction, p_unit) = (split_unit(with_digits(text)) for text in (gold, prediction))
        if {g_unit, p_unit} == {"degree", "radian"}:
            return self._values(
                *(f"({v})*\\pi/180" if u == "degree" else v for v, u in ((gold, g_unit), (prediction, p_unit)))
            )
        if not same_unit(g_unit, p_unit, self.policy):
            self.reach("structure")
            return False
        gold, prediction = (number_in_words(string_form(text)) or text for text in (gold, prediction))
        if string_form(gold) == string_form(prediction):
            return True
        if any(shape_of(text).kind != "single" for text in (gold, prediction)):
            return self._rules.shapes(shape_of(gold), shape_of(prediction)) if g_unit or p_unit else False
        outcome = self._values(gold, prediction)
        for mine, yours, value, other in ((g_unit, p_unit, gold, prediction), (p_unit, g_unit, prediction, gold)):
            if outcome is not False:
                break
            if mine == "percent" != yours and self.policy.percent_is_hundredth:
                outcome = self._values(f"({value})/100", other)
            elif mine == "degree" and yours in ("", "radian") and re.search(r"pi|\^\\circ", other):
                outcome = self._values(rf"({value})*\pi/180", other)
        return outcome

    def _values(self, gold: str, prediction: str) -> bool | None:
        """Compare two expressions without units."""
        if _NUMERAL.fullmatch(gold) or _NUMERAL.fullmatch(prediction):
            return False  # equal numerals of one base, and equal dates, have equal letters
        if _LETTERS.fullmatch(gold) and _LETTERS.fullmatch(prediction):
            return False  # `tea` and `eat` are words, not products
        if any(map(_VECTOR_PRODUCT.search, (gold, prediction))):
            return False  # the cross and the dot are no products of numbers
        g_tree, p_tree = tree_of(gold), tree_of(prediction)
        if g_tree is None or p_tree is None:
            if any(pattern.search(text) for pattern in (_WORD, _UNREADABLE) for text in (gold, prediction)):
                return False  # words that differ, or what math-verify would misread
            return self.ask(gold, prediction)
        values = exact_value(g_tree), exact_value(p_tree)
        if None not in values:
            self.reach("number")
            same: bool | None = values[0] == values[1]
        elif isinstance(g_tree, Symbol) and isinstance(p_tree, Symbol):
            same = g_tree == p_tree
        else:
            same = self.ask(gold, prediction, (g_tree, p_tree))
        return self._rounded(g_tree, p_tree) if same is False else same

    def _rounded(self, gold: Expression, prediction: Expression) -> bool | None:
        """Whether one is a decimal that the other rounds to: printed in full, or as the policy allows."""
        for decimal, value in ((prediction, gold), (gold, prediction)):
            if isinstance(decimal, Call) and decimal.name == "neg":
                decimal, value = decimal.args[0], Call("neg", (value,))
            if not isinstance(decimal, Number) or symbols_of(value) - {"pi", "e"}:
                continue
            in_full = 15 <= decimal.digits <= 17 and not _terminates(value)
            shorter = not isinstance(value, Number) or not value.digits or value.digits > decimal.digits
            if in_full or (self.policy.roundings and decimal.digits >= 2 and shorter):
                if self.oracle is None:
                    return None
                if self.oracle.is_rounding(decimal, value):
                    self.reach("numeric")
                    return True
        return False

    def ask(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None = None) -> bool | None:
        """Ask the oracle about two single expressions."""
        if self.oracle is None:
            return None
        outcome = self.oracle.equal(gold, prediction, trees)
        self.reach(self.oracle.stage)
        return outcome

    def proportional(self, gold: str, prediction: str, *, positive: bool) -> bool | None:
        """Ask the oracle whether one difference of sides is a multiple of the other."""
        if self.oracle is None:
            return None
        self.reach("numeric")
        return self.oracle.proportional(gold, prediction, positive=positive)


def _terminates(value: Expression) -> bool:
    """Whether a value has a last decimal place, so that a program prints it exactly."""
    exact = exact_value(value)
    if exact is None:
        return False
    rest = exact.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
