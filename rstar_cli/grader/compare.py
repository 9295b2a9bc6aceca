r"""Whether two answers are the same: the rules, cheap ones first, each with what it leaves undecided.

A rule answers True, False, or None for "not by me". `Comparison` without an oracle is pure and fast and runs in our own
process; what it leaves undecided goes to the worker process, where the same rules run with an oracle (`symbolic`).

Policy, in short (strict: a false accept is a poisoned reward):

- exact numbers have no tolerance: 9999 is not 10000, 0.33 is not 1/3; 10% is 10, not 0.1;
- a unit or the name of the unknown (`x=5`, `5 cm`) that one side omits is overlooked, two that differ are not;
- brackets count: (0,9) is not [0,9); a bare list has no order, a tuple has; a list is not its first element;
- a solved form (`x = 5`, `x > 5`) is not matched by the unsolved equation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from rstar_cli.grader.exact import BoundsError, exact_value
from rstar_cli.grader.expression import Expression, Symbol, UnparsedError, parse
from rstar_cli.grader.normalize import normal_form, string_form, within_bounds
from rstar_cli.grader.structure import Shape, interval_of, list_items, relation_parts, shape_of, split_top
from rstar_cli.grader.vocabulary import choice_of, number_word, same_unit, split_unit

STAGES = ("string", "number", "structure", "numeric", "symbolic", "bounds")
"""Where a decision can fall, from the cheapest on; `numeric` and `symbolic` only in the worker.

`bounds`: the prediction is too large to be compared (length, nesting, size of its value), the gold is not."""

_MAX_ITEMS = 200
_WORD_NAME = r"[a-zA-Z]{1,3}(?![a-zA-Z])|[A-Za-z][a-z]{3,11}(?![a-zA-Z])"
_ACCENTED = r"\\(?:text|vec|hat|bar|overline|overrightarrow|mathbb)\{[^{}]*\}"
_BARE_NAME = rf"(?:{_ACCENTED}|\\(?!in|le|ge|ne)[a-zA-Z]+\s?|{_WORD_NAME})"
_NAME = rf"(?:\\(?:angle|triangle|Delta)\s?)?{_BARE_NAME}(?:_(?:\{{[^{{}}]*\}}|\w))?'*"
_SYMBOL = re.compile(_NAME)
_LABEL = re.compile(rf"{_NAME}(?:\^\{{-1\}})?(?:\([^()=]*\))?|\({_NAME}(?:,{_NAME})+\)|{_NAME}:{_NAME}|\|{_NAME}\|")
_IN = re.compile(r"\\in(?![a-zA-Z])")
_APPROX = re.compile(r"\\approx(?![a-zA-Z])")
_FUNCTION_CALL = re.compile(r"\\(?:sin|cos|tan|ln|log|exp|sec|csc|cot|arc\w+|frac|sqrt|binom)(?![a-zA-Z])")
_BASE_NUMERAL = re.compile(r"[\dA-F]+_(?:\{\d+\}|\d+)")
_SET_ALGEBRA = re.compile(r"\\(?:setminus|mathbb|cap|emptyset)(?![a-zA-Z])")
_LETTERS = re.compile(r"[a-zA-Z]{3,}")
_UNREADABLE = re.compile(r"\d \d|\d_")
_WORD = re.compile(r"\\text\{|(?<![\\a-zA-Z])[a-zA-Z]{4,}")


class Oracle(Protocol):
    """What only the worker process can tell."""

    stage: str

    def equal(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None) -> bool | None:
        """Whether two single expressions (normal forms; trees where they parsed) are equal."""

    def proportional(self, gold: str, prediction: str, *, positive: bool) -> bool | None:
        """Whether two differences of sides (texts) are one multiple of the other."""


class Comparison:
    """One comparison of two answers.

    Attributes:
        stage: the most expensive of `STAGES` that was asked so far.
    """

    def __init__(self, oracle: Oracle | None = None) -> None:
        self.oracle = oracle
        self.stage = "string"

    def answers(self, gold: str, prediction: str) -> bool | None:
        """Compare two answer texts.

        Raises:
            BoundsError: the gold is too long or too deeply nested to be compared but by its letters.
        """
        if gold.strip() == prediction.strip():
            return True
        if not within_bounds(gold):
            raise BoundsError("the gold answer is too long or too deeply nested")
        if not within_bounds(prediction):
            self.stage = "bounds"
            return False
        return self.equal(normal_form(gold), normal_form(prediction))

    def equal(self, gold: str, prediction: str) -> bool | None:
        """Compare two normal forms."""
        letters = string_form(gold)
        if letters and letters == string_form(prediction):
            return True
        if not letters or not string_form(prediction):
            return False
        choices = choice_of(gold), choice_of(prediction)
        if choices[0] and choices[1]:
            return choices[0][0] == choices[1][0]
        if choices[0] and choices[0][1] and self.equal(normal_form(choices[0][1]), prediction):
            return True
        gold, prediction = _value_of(gold), _value_of(prediction)
        return self._shapes(shape_of(gold), shape_of(prediction))

    def _reach(self, stage: str) -> None:
        if STAGES.index(stage) > STAGES.index(self.stage):
            self.stage = stage

    def _shapes(self, gold: Shape, prediction: Shape) -> bool | None:
        if gold.kind == prediction.kind == "single":
            return self._single(gold.parts[0], prediction.parts[0])
        self._reach("structure")
        if "list" in (gold.kind, prediction.kind):
            return self._lists(gold, prediction)
        if "relation" in (gold.kind, prediction.kind):
            return self._relations(gold, prediction)
        return self._collections(gold, prediction)

    # --- collections -------------------------------------------------------------------------------------------------

    def _collections(self, gold: Shape, prediction: Shape) -> bool | None:
        kinds = (gold.kind, prediction.kind)
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
        if set(kinds) == {"matrix", "tuple"}:  # a vector, written as a column or a row
            matrix = gold if gold.kind == "matrix" else prediction
            return (
                self._ordered(gold.parts, prediction.parts)
                if matrix.detail[0] in ("1", str(len(gold.parts)))
                else False
            )
        if set(kinds) == {"tuple", "square"} and len(gold.parts) > 2:
            return self._ordered(gold.parts, prediction.parts)
        return False

    def _ratios(self, gold: Shape, prediction: Shape) -> bool | None:
        """Ratios and times of day, part by part; seconds that are 0 may be left out."""
        parts = [list(shape.parts) for shape in (gold, prediction)]
        for mine, other in (parts, parts[::-1]):
            if len(mine) == len(other) + 1 and mine[-1] == "00":
                mine.pop()
        return self._ordered(*parts) if len(parts[0]) == len(parts[1]) else False

    def _ordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        return _all(lambda pair: self.equal(*pair), list(zip(gold, prediction, strict=True)))

    def _unordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        """Whether the elements can be paired. Elements that are surely equal are paired at once.

        A set of solutions is none the worse for naming one twice.
        """
        left = list(dict.fromkeys(prediction)) if len(set(gold)) == len(gold) > 1 else list(prediction)
        if len(left) != len(gold):
            return False
        unsure = False
        for item in gold:
            outcomes: list[bool | None] = []
            for i, candidate in enumerate(left):
                outcomes.append(self.equal(item, candidate))
                if outcomes[-1]:
                    del left[i]
                    break
            else:
                if not any(outcome is None for outcome in outcomes):
                    return False
                unsure = True
        return None if unsure else True

    # --- lists, with or without names --------------------------------------------------------------------------------

    def _lists(self, gold: Shape, prediction: Shape) -> bool | None:
        g_names, g_items = _names_and_items(gold)
        p_names, p_items = _names_and_items(prediction)
        if max(len(g_items), len(p_items)) > _MAX_ITEMS:
            return False
        if g_names and p_names and set(g_names) == set(p_names):
            by_name = dict(zip(p_names, p_items, strict=True))  # each name occurs once
            return self._ordered(g_items, [by_name[name] for name in g_names])
        if g_names and p_names:
            return False
        kinds = (gold.kind, prediction.kind)
        if "half" in kinds or (kinds == ("square", "list") and len(g_items) == 2):
            return False
        if "union" in kinds or not (g_names or p_names or "tuple" in kinds or "matrix" in kinds):
            return self._unordered(g_items, p_items)
        return self._ordered(g_items, p_items) if len(g_items) == len(p_items) else False

    # --- equations and inequalities ----------------------------------------------------------------------------------

    def _relations(self, gold: Shape, prediction: Shape) -> bool | None:
        if gold.kind == prediction.kind == "relation":
            g_label, g_value = _label_and_value(gold)
            p_label, p_value = _label_and_value(prediction)
            if g_label and p_label:
                same = self._same_label(g_label, p_label)
                return self.equal(g_value, p_value) if same else self._two_relations(gold, prediction)
            return self._two_relations(gold, prediction)
        relation, other = (gold, prediction) if gold.kind == "relation" else (prediction, gold)
        label, value = _label_and_value(relation)
        if label:
            return self._shapes(*((shape_of(value), other) if gold is relation else (other, shape_of(value))))
        interval = interval_of(relation, _SYMBOL)
        if interval is not None:
            return self._collections(*((interval, other) if gold is relation else (other, interval)))
        if relation is prediction and set(relation.detail) == {"="}:
            return self._constant_chain(relation, other)
        return False

    @staticmethod
    def _same_label(gold: str, prediction: str) -> bool:
        r"""`x = 5` is not `y = 5`; `f(x) = 2x` and `y = 2x` are one function; `\text{area} = 5` says no symbol."""
        if string_form(gold) == string_form(prediction):
            return True
        if ("(" in gold) != ("(" in prediction):
            return bool({gold, prediction} & {"y", "f", "g"})
        return gold.startswith(r"\text") != prediction.startswith(r"\text")

    def _constant_chain(self, chain: Shape, gold: Shape) -> bool | None:
        r"""`\binom{5}{2} = 10` for gold 10: every side of the chain must be the gold, none may hold a variable."""
        if gold.kind != "single" or any(_has_variable(side) for side in chain.parts):
            return False
        return _all(lambda side: self.equal(gold.parts[0], side), list(chain.parts))

    def _two_relations(self, gold: Shape, prediction: Shape) -> bool | None:
        if not any(_has_variable(side) for side in (*gold.parts, *prediction.parts)):
            return self.equal(gold.parts[-1], prediction.parts[-1])  # both are calculations: their results count
        (g_sides, g_ops), (p_sides, p_ops) = _oriented(gold), _oriented(prediction)
        if g_ops != p_ops:
            return False
        if (same := self._ordered(g_sides, p_sides)) is True:
            return True
        operator = g_ops[0]
        if len(g_ops) > 1:
            return same
        if operator in ("=", r"\ne") and self._ordered(g_sides, p_sides[::-1]) is True:
            return True
        if _is_solved(g_sides) and not _is_solved(p_sides):
            return False
        if self.oracle is None:
            return None
        self._reach("numeric")
        g_text, p_text = (f"({left})-({right})" for left, right in (g_sides, p_sides))
        return self.oracle.proportional(g_text, p_text, positive=operator not in ("=", r"\ne"))

    # --- single expressions ------------------------------------------------------------------------------------------

    def _single(self, gold: str, prediction: str) -> bool | None:
        (gold, g_unit), (prediction, p_unit) = split_unit(gold), split_unit(prediction)
        if not same_unit(g_unit, p_unit):
            self._reach("structure")
            return False
        gold, prediction = number_word(gold), number_word(prediction)
        if string_form(gold) == string_form(prediction):
            return True
        if any(shape_of(text).kind != "single" for text in (gold, prediction)):
            return self._shapes(shape_of(gold), shape_of(prediction)) if g_unit or p_unit else False
        if _BASE_NUMERAL.fullmatch(gold) or _BASE_NUMERAL.fullmatch(prediction):
            return False  # equal numerals of one base have equal letters
        if _LETTERS.fullmatch(gold) and _LETTERS.fullmatch(prediction):
            return False  # `tea` and `eat` are words, not products
        trees = _tree(gold), _tree(prediction)
        if trees[0] is not None and trees[1] is not None:
            values = exact_value(trees[0]), exact_value(trees[1])
            if None not in values:
                self._reach("number")
                return values[0] == values[1]
            if isinstance(trees[0], Symbol) and isinstance(trees[1], Symbol):
                return trees[0] == trees[1]
            return self._ask(gold, prediction, (trees[0], trees[1]))
        if any(pattern.search(text) for pattern in (_WORD, _UNREADABLE) for text in (gold, prediction)):
            return False  # words that differ, or what math-verify would misread
        return self._ask(gold, prediction, None)

    def _ask(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None) -> bool | None:
        if self.oracle is None:
            return None
        outcome = self.oracle.equal(gold, prediction, trees)
        self._reach(self.oracle.stage)
        return outcome


def _all(test: Callable[..., bool | None], items: Sequence[object]) -> bool | None:
    """False if one test fails, else None if one is undecided, else True."""
    outcomes = []
    for item in items:
        outcomes.append(test(item))
        if outcomes[-1] is False:
            return False
    return None if None in outcomes else True


def _tree(text: str) -> Expression | None:
    try:
        return parse(text)
    except UnparsedError:
        return None


def _value_of(text: str) -> str:
    r"""`\frac{1}{3} \approx 0.33` is a third; `x \approx 0.33` says what x is; `x \in S` is S."""
    membership, _ = split_top(text, _IN)
    if len(membership) == 2 and _is_label(membership[0]):
        return membership[1]
    parts, _ = split_top(text, _APPROX)
    if len(parts) == 1:
        return text
    first = parts[0]
    if not first or _is_label(first):
        return f"{first}={parts[1]}" if first else parts[1]
    return first


def _is_label(text: str) -> bool:
    return bool(_LABEL.fullmatch(text)) and not _FUNCTION_CALL.match(text)


def _label_and_value(relation: Shape) -> tuple[str, str]:
    """The name of an unknown and what it equals at the end of the chain; empty where it is another relation."""
    if set(relation.detail) == {"="} and _is_label(relation.parts[0]):
        return relation.parts[0], relation.parts[-1]
    return "", ""


def _names_and_items(shape: Shape) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Elements without the names of the unknowns, and the names if each has its own (`x=1, y=2`)."""
    names: list[str] = []
    items: list[str] = []
    for part in shape.parts:
        sides, operators = relation_parts(part)
        named = set(operators) == {"="} and _is_label(sides[0]) and len(list_items(part)) == 1
        names.append(sides[0] if named else "")
        items.append(sides[-1] if named else part)
    stems = {name.split("_")[0] for name in names if name}
    own = len(set(names)) == len(names) and all(names) and len(stems) == len(names)
    return (tuple(names) if own else ()), tuple(items)


def _has_variable(text: str) -> bool:
    tree = _tree(text)
    return tree is None or bool(_symbols(tree) - {"pi", "e", "i"})


def _symbols(tree: Expression) -> set[str]:
    if isinstance(tree, Symbol):
        return {tree.name}
    return set().union(*map(_symbols, getattr(tree, "args", ())))


def _oriented(relation: Shape) -> tuple[list[str], list[str]]:
    r"""Sides and operators, turned so that it reads upwards (`<`, `\le`)."""
    sides, operators = list(relation.parts), list(relation.detail)
    if operators[0] in (">", r"\ge"):
        flipped = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
        return sides[::-1], [flipped.get(op, op) for op in operators[::-1]]
    return sides, operators


def _is_solved(sides: Sequence[str]) -> bool:
    return any(_SYMBOL.fullmatch(side) for side in sides) and any(not _has_variable(side) for side in sides)
