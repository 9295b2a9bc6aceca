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
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Protocol

from rstar_cli.grader.exact import BoundsError, exact_value
from rstar_cli.grader.expression import Call, Expression, Number, Symbol
from rstar_cli.grader.labels import (
    expanded,
    has_variable,
    is_label,
    is_solved,
    label_and_sides,
    named_point,
    names_and_items,
    oriented,
    symbols_of,
    tree_of,
)
from rstar_cli.grader.normalize import normal_form, string_form, within_bounds
from rstar_cli.grader.policy import STRICT, Policy
from rstar_cli.grader.realset import NotASetError, RealSet, SetReader, may_be_set
from rstar_cli.grader.structure import Shape, shape_of, split_top
from rstar_cli.grader.vocabulary import choice_of, quantities, same_unit, split_unit
from rstar_cli.grader.words import number_in_words, time_of_day, with_digits

STAGES = ("string", "number", "structure", "numeric", "symbolic", "bounds")
"""Where a decision can fall, from the cheapest on; `numeric` and `symbolic` only in the worker.

`bounds`: the prediction is too large to be compared (length, nesting, size of its value), the gold is not."""

_MAX_ITEMS = 200
_MAX_UNSURE = 8
_MAX_EXPRESSION = 1_000
"""Characters of a single expression."""
_APPROX = re.compile(r"\\approx(?![a-zA-Z])")
_BASE_NUMERAL = re.compile(r"[\dA-F]+_(?:\{\d+\}|\d+)")
_SET_ALGEBRA = re.compile(r"\\(?:setminus|mathbb|cap|emptyset)(?![a-zA-Z])")
_LETTERS = re.compile(r"[a-zA-Z]{3,}")
_UNREADABLE = re.compile(r"\d \d|\d_|'")
_WORD = re.compile(r"\\text\{|(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_UNIT_VECTOR = re.compile(r"(?<![a-zA-Z\\{])([ijk])(?![a-zA-Z])")
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


class _UndecidedError(Exception):
    """An oracle is needed."""


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
        self._sets = SetReader(self._value)

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
        numbers = number_in_words(letters), number_in_words(string_form(prediction))
        if any(numbers):
            gold, prediction = numbers[0] or gold, numbers[1] or prediction
        times = time_of_day(letters), time_of_day(string_form(prediction))
        if times[0] and times[1]:
            return times[0][0] == times[1][0] and (times[0][1] == times[1][1] or not (times[0][1] and times[1][1]))
        choices = choice_of(gold), choice_of(prediction)
        if choices[0] and choices[1]:
            return choices[0][0] == choices[1][0]
        if choices[0] and choices[0][1] and self.equal(normal_form(choices[0][1]), prediction):
            return True
        if choices[1] and choices[1][1] and not choices[0] and len(letters) > 1:
            return self.equal(gold, normal_form(choices[1][1]))
        gold, prediction = _value_of(gold), _value_of(prediction)
        amounts = quantities(gold), quantities(prediction)
        if amounts[0] and amounts[1]:
            return self._ordered(amounts[0], amounts[1]) if len(amounts[0]) == len(amounts[1]) else False
        if may_be_set(gold) or may_be_set(prediction):
            try:
                sets = self._sets.read(gold), self._sets.read(prediction)
                self._reach("structure")
                return self._sets.same(*sets, self.equal)
            except NotASetError:
                pass  # other rules may know it
            except _UndecidedError:
                return None
        return self._shapes(shape_of(gold), shape_of(prediction))

    def _reach(self, stage: str) -> None:
        if STAGES.index(stage) > STAGES.index(self.stage):
            self.stage = stage

    def _value(self, text: str) -> Fraction | None:
        """The value of a constant text; None where it has none.

        Raises:
            _UndecidedError: it takes an oracle.
        """
        tree = tree_of(text)
        if tree is None or symbols_of(tree) - {"pi", "e"}:
            return None
        value = exact_value(tree)
        if value is not None:
            return value
        if self.oracle is None:
            raise _UndecidedError
        self._reach("numeric")
        return self.oracle.value(tree)

    def _shapes(self, gold: Shape, prediction: Shape) -> bool | None:
        if gold.kind == prediction.kind == "single":
            return self._single(gold.parts[0], prediction.parts[0])
        self._reach("structure")
        if "cases" in (gold.kind, prediction.kind):
            return (
                self._cases(gold, prediction) if gold.kind == prediction.kind else self._named_cases(gold, prediction)
            )
        if prediction.kind == "list" or gold.kind == "list":
            gold, prediction = expanded(gold), expanded(prediction)
            return self._lists(gold, prediction)
        if "relation" in (gold.kind, prediction.kind):
            return self._relations(gold, prediction)
        return self._collections(gold, prediction)

    # --- functions by cases ------------------------------------------------------------------------------------------

    def _named_cases(self, gold: Shape, prediction: Shape) -> bool | None:
        """`f(x) = ...` on one side."""
        for one, other in ((gold, prediction), (prediction, gold)):
            if one.kind == "relation":
                label, sides = label_and_sides(one)
                named = shape_of(sides[-1]) if label else one
                if named.kind == "cases":
                    return self._cases(named, other) if one is gold else self._cases(other, named)
        return False

    def _cases(self, gold: Shape, prediction: Shape) -> bool | None:
        """Each value of the one under the same condition as in the other."""
        mine, yours = self._branches(gold), self._branches(prediction)
        if len(mine) != len(yours) or len(mine) > _MAX_ITEMS:
            return False

        def same(branch: tuple[str, str, RealSet | None], other: tuple[str, str, RealSet | None]) -> bool | None:
            (value, text, where), (other_value, other_text, other_where) = branch, other
            if where is not None and other_where is not None:
                there = self._sets.same(where, other_where, self.equal)
            else:
                there = self.equal(text, other_text)
            return there if there is False else _all([there, self.equal(value, other_value)])

        return _paired(mine, yours, same)

    def _branches(self, cases: Shape) -> list[tuple[str, str, RealSet | None]]:
        """Value, condition, and the set that the condition stands for; "otherwise" is what the others leave."""
        values, conditions = cases.parts[::2], cases.parts[1::2]
        found = [self._set_of(condition) for condition in conditions]
        others = [i for i, condition in enumerate(conditions) if re.search("otherwise|else|other", condition)]
        known = [where for i, where in enumerate(found) if where is not None and i not in others]
        if len(others) == 1 and len(known) == len(found) - 1:
            found[others[0]] = self._sets.rest(known)
        return list(zip(values, conditions, found, strict=True))

    def _set_of(self, condition: str) -> RealSet | None:
        try:
            return self._sets.read(condition)
        except (NotASetError, _UndecidedError):
            return None

    # --- collections -------------------------------------------------------------------------------------------------

    def _collections(self, gold: Shape, prediction: Shape) -> bool | None:
        kinds = (gold.kind, prediction.kind)
        if set(kinds) == {"ratio", "single"}:
            ratio, other = (gold, prediction) if gold.kind == "ratio" else (prediction, gold)
            plain = len(ratio.parts) == 2 and not any(part.startswith("0") for part in ratio.parts)
            return self.equal(f"({ratio.parts[0]})/({ratio.parts[1]})", other.source) if plain else False
        if set(kinds) == {"tuple", "single"} or set(kinds) == {"matrix", "single"}:
            return self._unit_vectors(gold, prediction)
        if "single" in kinds and any(_SET_ALGEBRA.search(shape.source) for shape in (gold, prediction)):
            return self._ask(gold.source, prediction.source, None)
        if "single" in kinds or len(gold.parts) > _MAX_ITEMS or len(prediction.parts) > _MAX_ITEMS:
            return False
        if kinds == ("ratio", "ratio"):
            return self._ratios(gold, prediction)
        if set(kinds) <= {"set", "square"} and kinds[0] == "set":  # a program prints its set as a list
            return self._unordered(gold.parts, prediction.parts)
        if len(gold.parts) != len(prediction.parts):
            if kinds != ("union", "union"):
                return False
            return self._ask(gold.source, prediction.source, None)
        if gold.kind == prediction.kind:
            if gold.kind == "union":
                return self._unordered(gold.parts, prediction.parts)
            return self._ordered(gold.parts, prediction.parts) if gold.detail == prediction.detail else False
        if "matrix" in kinds and set(kinds) & {"tuple", "square"}:  # a vector, written as a column or a row
            matrix = gold if gold.kind == "matrix" else prediction
            is_vector = matrix.detail[0] in ("1", str(len(gold.parts)))
            return self._ordered(gold.parts, prediction.parts) if is_vector else False
        if set(kinds) == {"tuple", "square"} and len(gold.parts) > 2:
            return self._ordered(gold.parts, prediction.parts)
        return False

    def _ratios(self, gold: Shape, prediction: Shape) -> bool | None:
        """Ratios part by part; those of two numbers by their quotient."""
        if len(gold.parts) != len(prediction.parts):
            return False
        same = self._ordered(gold.parts, prediction.parts)
        if same is not False or len(gold.parts) != 2 or any(part.startswith("0") for part in prediction.parts):
            return same
        return self.equal(*(f"({shape.parts[0]})/({shape.parts[1]})" for shape in (gold, prediction)))

    def _unit_vectors(self, gold: Shape, prediction: Shape) -> bool | None:
        r"""`\langle 2,-1\rangle` and `2\mathbf{i}-\mathbf{j}`."""
        vector, other = (prediction, gold) if gold.kind == "single" else (gold, prediction)
        if (
            len(vector.parts) not in (2, 3)
            or not re.search(r"j|\\hat", other.source)
            or vector.detail not in ((), ("1",))
        ):
            return False
        combined = "+".join(rf"({part})\hat{{{axis}}}" for part, axis in zip(vector.parts, "ijk", strict=False))
        return self.equal(combined, _UNIT_VECTOR.sub(r"\\hat{\1}", other.source))

    def _ordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        outcomes = []
        for pair in zip(gold, prediction, strict=True):
            outcomes.append(self.equal(*pair))
            if outcomes[-1] is False:
                return False
        return _all(outcomes)

    def _unordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        """Whether the elements can be paired. A set of solutions is none the worse for naming one twice."""
        if len(set(gold)) == len(gold) > 1:
            prediction = list(dict.fromkeys(prediction))
        return _paired(gold, prediction, self.equal) if len(gold) == len(prediction) else False

    # --- lists, with or without names --------------------------------------------------------------------------------

    def _lists(self, gold: Shape, prediction: Shape) -> bool | None:
        mine, yours = names_and_items(gold), names_and_items(prediction)
        if max(len(mine.items), len(yours.items)) > _MAX_ITEMS:
            return False
        if mine.own and yours.own and set(mine.names) == set(yours.names):
            by_name = dict(zip(yours.names, yours.items, strict=True))
            return self._ordered(mine.items, [by_name[name] for name in mine.names])
        if mine.relations and yours.relations and len(mine.items) > 1 < len(yours.items):
            whole = self._unordered(gold.parts, prediction.parts)
            if whole is not False or not mine.stems or mine.stems != yours.stems or len(mine.stems) > 1:
                return whole
        elif mine.names and yours.names and set(mine.names) != set(yours.names):
            return False
        kinds = (gold.kind, prediction.kind)
        if "half" in kinds or (kinds == ("square", "list") and len(mine.items) == 2):
            return False
        if mine.own != yours.own and "tuple" in kinds:
            mine, yours = mine.in_order(), yours.in_order()
        ordered = mine.own or yours.own or "tuple" in kinds or "matrix" in kinds or self.policy.ordered_lists
        if "union" in kinds or not ordered:
            return self._unordered(mine.items, yours.items)
        return self._ordered(mine.items, yours.items) if len(mine.items) == len(yours.items) else False

    # --- equations and inequalities ----------------------------------------------------------------------------------

    def _relations(self, gold: Shape, prediction: Shape) -> bool | None:
        (g_label, g_sides), (p_label, p_sides) = label_and_sides(gold), label_and_sides(prediction)
        if gold.kind == prediction.kind == "relation":
            if g_label and p_label and self._same_label(g_label, p_label):
                return self.equal(g_sides[-1], p_sides[-1])
            return self._two_relations(gold, prediction)
        if gold.kind == "relation":
            return self._shapes(shape_of(g_sides[-1]), prediction) if g_label else False
        if p_label:
            return self.equal(gold.source, p_sides[-1])
        if set(prediction.detail) == {"="}:  # `\binom{5}{2} = 10` for gold 10, `x+y = 3+4 = 7` for gold 7
            computed = len(prediction.parts) > 2 and not any(map(has_variable, prediction.parts[1:]))
            return self._chain(gold.source, prediction.parts[1:] if computed else prediction.parts)
        return False

    def _chain(self, gold: str, sides: Sequence[str]) -> bool | None:
        """Every side of a chain of equations must be the gold."""
        return self._ordered([gold] * len(sides), sides)

    @staticmethod
    def _same_label(gold: str, prediction: str) -> bool:
        r"""`x = 5` is not `y = 5`; `f(x) = 2x` and `y = 2x` are one function; `\text{area} = 5` says no symbol."""
        if string_form(gold) == string_form(prediction):
            return True
        if ("(" in gold) != ("(" in prediction):
            return bool({gold, prediction} & {"y", "f", "g"})
        return gold.startswith(r"\text") != prediction.startswith(r"\text")

    def _two_relations(self, gold: Shape, prediction: Shape) -> bool | None:
        if not any(has_variable(side) for side in (*gold.parts, *prediction.parts)):  # calculations: results count
            all_equal = set(gold.detail) == set(prediction.detail) == {"="}
            return self._chain(gold.parts[-1], prediction.parts) if all_equal else False
        (g_sides, g_ops), (p_sides, p_ops) = oriented(gold), oriented(prediction)
        if g_ops != p_ops or any(shape_of(side).kind == "relation" for side in g_sides):  # relations of relations
            return False
        if (same := self._ordered(g_sides, p_sides)) is True:
            return True
        operator = g_ops[0]
        if len(g_ops) > 1:
            return same
        if operator in ("=", r"\ne") and self._ordered(g_sides, p_sides[::-1]) is True:
            return True
        if is_solved(g_sides) and not is_solved(p_sides):
            return False
        if self.oracle is None:
            return None
        self._reach("numeric")
        g_text, p_text = (f"({left})-({right})" for left, right in (g_sides, p_sides))
        return self.oracle.proportional(g_text, p_text, positive=operator not in ("=", r"\ne"))

    # --- single expressions ------------------------------------------------------------------------------------------

    def _single(self, gold: str, prediction: str) -> bool | None:
        if len(gold) > _MAX_EXPRESSION:
            raise BoundsError("the gold expression is too long")
        if len(prediction) > _MAX_EXPRESSION:
            self._reach("bounds")
            return False
        (gold, g_unit), (prediction, p_unit) = (split_unit(with_digits(text)) for text in (gold, prediction))
        if not same_unit(g_unit, p_unit, self.policy):
            self._reach("structure")
            return False
        gold, prediction = (number_in_words(string_form(text)) or text for text in (gold, prediction))
        if string_form(gold) == string_form(prediction):
            return True
        if any(shape_of(text).kind != "single" for text in (gold, prediction)):
            return self._shapes(shape_of(gold), shape_of(prediction)) if g_unit or p_unit else False
        outcome = self._values(gold, prediction)
        for mine, yours, value, other in ((g_unit, p_unit, gold, prediction), (p_unit, g_unit, prediction, gold)):
            if outcome is not False:
                break
            if mine == "percent" != yours and self.policy.percent_is_hundredth:
                outcome = self._values(f"({value})/100", other)
            elif mine == "degree" and yours in ("", "radian") and "pi" in other:
                outcome = self._values(rf"({value})*\pi/180", other)
        return outcome

    def _values(self, gold: str, prediction: str) -> bool | None:
        """Compare two expressions without units."""
        if _BASE_NUMERAL.fullmatch(gold) or _BASE_NUMERAL.fullmatch(prediction):
            return False  # equal numerals of one base have equal letters
        if _LETTERS.fullmatch(gold) and _LETTERS.fullmatch(prediction):
            return False  # `tea` and `eat` are words, not products
        if any(map(_VECTOR_PRODUCT.search, (gold, prediction))):
            return False  # the cross and the dot are no products of numbers
        g_tree, p_tree = tree_of(gold), tree_of(prediction)
        if g_tree is None or p_tree is None:
            if any(pattern.search(text) for pattern in (_WORD, _UNREADABLE) for text in (gold, prediction)):
                return False  # words that differ, or what math-verify would misread
            return self._ask(gold, prediction, None)
        values = exact_value(g_tree), exact_value(p_tree)
        if None not in values:
            self._reach("number")
            same: bool | None = values[0] == values[1]
        elif isinstance(g_tree, Symbol) and isinstance(p_tree, Symbol):
            same = g_tree == p_tree
        else:
            same = self._ask(gold, prediction, (g_tree, p_tree))
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
                    self._reach("numeric")
                    return True
        return False

    def _ask(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None) -> bool | None:
        if self.oracle is None:
            return None
        outcome = self.oracle.equal(gold, prediction, trees)
        self._reach(self.oracle.stage)
        return outcome


def _all(outcomes: Sequence[bool | None]) -> bool | None:
    """False if one is False, else None if one is undecided, else True."""
    return False if False in outcomes else None if None in outcomes else True


def _paired(gold: Sequence[Any], prediction: Sequence[Any], same: Callable[[Any, Any], bool | None]) -> bool | None:
    """Whether the elements of two sequences can be paired, whatever their order; those surely equal pair at once."""
    left = list(prediction)
    unsure = 0
    for item in gold:
        if item in left:
            left.remove(item)
            continue
        undecided = False
        for i, candidate in enumerate(left):
            outcome = same(item, candidate)
            if outcome:
                del left[i]
                break
            undecided = undecided or outcome is None
        else:
            if not undecided:
                return False
            unsure += 1
            if unsure > _MAX_UNSURE:
                return None  # the worker goes through them anyway
    return None if unsure else True


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


def _value_of(text: str) -> str:
    r"""`\frac{1}{3} \approx 0.33` is a third; `x \approx 0.33` says what x is; `A(1,2)` is the point A."""
    parts, _ = split_top(text, _APPROX)
    if len(parts) == 1:
        return named_point(text)
    first = parts[0]
    if not first or is_label(first):
        return f"{first}={parts[1]}" if first else parts[1]
    return first
