r"""The rules for structured answers: lists, sets, tuples, intervals, matrices, ratios, cases, equations, inequalities.

Each takes two `Shape`s and says True, False or None (undecided without an oracle); elements go back to `Comparison`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rstar_cli.grader.expression import Number
from rstar_cli.grader.labels import (
    ROOTS,
    expanded,
    has_variable,
    is_solved,
    label_and_sides,
    names_and_items,
    oriented,
    tree_of,
)
from rstar_cli.grader.normalize import string_form
from rstar_cli.grader.policy import Policy
from rstar_cli.grader.realset import NotASetError, RealSet, SetReader
from rstar_cli.grader.structure import Shape, relation_parts, shape_of
from rstar_cli.grader.words import time_of_day

MAX_ITEMS = 200
"""Elements of a collection that are compared; larger ones differ unless their letters are the same."""
_MAX_UNSURE = 8
_SET_ALGEBRA = re.compile(r"\\(?:setminus|mathbb|cap|emptyset)(?![a-zA-Z])")
_UNIT_VECTOR = re.compile(r"(?<![a-zA-Z\\{])([ijk])(?![a-zA-Z])")


class UndecidedError(Exception):
    """An oracle is needed."""


class Comparer(Protocol):
    """What the rules need of the comparison that they are part of."""

    policy: Policy
    sets: SetReader

    def reach(self, stage: str) -> None:
        """Note that a stage was asked."""

    def equal(self, gold: str, prediction: str) -> bool | None:
        """Compare two normal forms."""

    def single(self, gold: str, prediction: str) -> bool | None:
        """Compare two single expressions."""

    def ask(self, gold: str, prediction: str) -> bool | None:
        """Ask the oracle about two texts that no rule knows."""

    def proportional(self, gold: str, prediction: str, *, positive: bool) -> bool | None:
        """Ask the oracle whether one text is a multiple of the other."""


class StructureRules:
    """The rules, for one comparison."""

    def __init__(self, comparison: Comparer) -> None:
        self._comparison = comparison
        self._equal = comparison.equal

    def shapes(self, gold: Shape, prediction: Shape) -> bool | None:
        """Compare two answers by their outer structure."""
        if gold.kind == prediction.kind == "single":
            return self._comparison.single(gold.parts[0], prediction.parts[0])
        self._comparison.reach("structure")
        if "cases" in (gold.kind, prediction.kind):
            both = gold.kind == prediction.kind
            return self._cases(gold, prediction) if both else self._named_cases(gold, prediction)
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
        try:
            mine, yours = self._branches(gold), self._branches(prediction)
        except UndecidedError:
            return None
        if len(mine) != len(yours) or len(mine) > MAX_ITEMS:
            return False

        def same(branch: tuple[str, str, RealSet | None], other: tuple[str, str, RealSet | None]) -> bool | None:
            (value, text, where), (other_value, other_text, other_where) = branch, other
            if where is not None and other_where is not None:
                there = self._comparison.sets.same(where, other_where, self._equal)
            else:
                there = self._equal(text, other_text)
            return there if there is False else every([there, self._equal(value, other_value)])

        return _paired(mine, yours, same)

    def _branches(self, cases: Shape) -> list[tuple[str, str, RealSet | None]]:
        """Value, condition, and the set that the condition stands for; "otherwise" is what the others leave."""
        values, conditions = cases.parts[::2], cases.parts[1::2]
        found = [self._set_of(condition) for condition in conditions]
        others = [i for i, condition in enumerate(conditions) if re.search("otherwise|else|other", condition)]
        known = [where for i, where in enumerate(found) if where is not None and i not in others]
        if len(others) == 1 and len(known) == len(found) - 1:
            with contextlib.suppress(NotASetError):  # bounds that can't be ordered: then the words are compared
                found[others[0]] = self._comparison.sets.rest(known)
        return list(zip(values, conditions, found, strict=True))

    def _set_of(self, condition: str) -> RealSet | None:
        try:
            return self._comparison.sets.read(condition)
        except NotASetError:
            return None

    # --- collections -------------------------------------------------------------------------------------------------

    def _collections(self, gold: Shape, prediction: Shape) -> bool | None:
        kinds = (gold.kind, prediction.kind)
        if set(kinds) == {"ratio", "single"}:
            ratio, other = (gold, prediction) if gold.kind == "ratio" else (prediction, gold)
            plain = len(ratio.parts) == 2 and time_of_day(ratio.source) is None
            return self._equal(f"({ratio.parts[0]})/({ratio.parts[1]})", other.source) if plain else False
        if set(kinds) == {"tuple", "single"} or set(kinds) == {"matrix", "single"}:
            return self._unit_vectors(gold, prediction)
        if "single" in kinds and any(_SET_ALGEBRA.search(shape.source) for shape in (gold, prediction)):
            return self._comparison.ask(gold.source, prediction.source)
        if "single" in kinds or len(gold.parts) > MAX_ITEMS or len(prediction.parts) > MAX_ITEMS:
            return False
        if kinds == ("ratio", "ratio"):
            return self._ratios(gold, prediction)
        if set(kinds) <= {"set", "square"} and kinds[0] == "set":  # a program prints its set as a list
            return self._unordered(*(tuple(dict.fromkeys(shape.parts)) for shape in (gold, prediction)))
        if len(gold.parts) != len(prediction.parts):
            if kinds != ("union", "union"):
                return False
            return self._comparison.ask(gold.source, prediction.source)
        if gold.kind == prediction.kind:
            if gold.kind == "union":
                return self._unordered(gold.parts, prediction.parts)
            return self.ordered(gold.parts, prediction.parts) if gold.detail == prediction.detail else False
        if "matrix" in kinds and set(kinds) & {"tuple", "square"}:  # a vector, written as a column or a row
            matrix = gold if gold.kind == "matrix" else prediction
            is_vector = matrix.detail[0] in ("1", str(len(gold.parts)))
            return self.ordered(gold.parts, prediction.parts) if is_vector else False
        if set(kinds) == {"tuple", "square"} and len(gold.parts) > 2:
            return self.ordered(gold.parts, prediction.parts)
        return False

    def _ratios(self, gold: Shape, prediction: Shape) -> bool | None:
        """Ratios are equal part by part, or when all parts are in one proportion."""
        if len(gold.parts) != len(prediction.parts):
            return False
        same = self.ordered(gold.parts, prediction.parts)
        if same is not False or any(re.match(r"0\d*$", part) for part in (*gold.parts, *prediction.parts)):
            return same
        (g_first, *g_rest), (p_first, *p_rest) = gold.parts, prediction.parts
        return self.ordered([f"({g})*({p_first})" for g in g_rest], [f"({p})*({g_first})" for p in p_rest])

    def _unit_vectors(self, gold: Shape, prediction: Shape) -> bool | None:
        r"""`\langle 2,-1\rangle` and `2\mathbf{i}-\mathbf{j}`."""
        vector, other = (prediction, gold) if gold.kind == "single" else (gold, prediction)
        if (
            len(vector.parts) not in (2, 3)
            or not _UNIT_VECTOR.search(re.sub(r"\\hat\{(\w)\}", r"\1", other.source))
            or vector.detail not in ((), ("1",))
        ):
            return False
        combined = "+".join(rf"({part})\hat{{{axis}}}" for part, axis in zip(vector.parts, "ijk", strict=False))
        return self._equal(combined, _UNIT_VECTOR.sub(r"\\hat{\1}", other.source))

    def ordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        """Compare as many elements one by one."""
        outcomes = []
        for pair in zip(gold, prediction, strict=True):
            outcomes.append(self._equal(*pair))
            if outcomes[-1] is False:
                return False
        return every(outcomes)

    def _unordered(self, gold: Sequence[str], prediction: Sequence[str]) -> bool | None:
        """Whether the elements can be paired. A set of pairs or equations is none the worse for naming one twice."""
        if len(set(gold)) == len(gold) > 1 and not any(shape_of(item).kind == "single" for item in prediction):
            prediction = list(dict.fromkeys(prediction))
        return _paired(gold, prediction, self._equal) if len(gold) == len(prediction) else False

    # --- lists, with or without names --------------------------------------------------------------------------------

    def _lists(self, gold: Shape, prediction: Shape) -> bool | None:
        mine, yours = (
            names_and_items(shape if shape.kind != "relation" else replace(shape, parts=(shape.source,)))
            for shape in (gold, prediction)
        )
        if max(len(mine.items), len(yours.items)) > MAX_ITEMS:
            return False
        if mine.own and yours.own and set(mine.names) == set(yours.names):
            by_name = dict(zip(yours.names, yours.items, strict=True))
            return self.ordered(mine.items, [by_name[name] for name in mine.names])
        if mine.stems and yours.stems and mine.stems != yours.stems:
            return False
        if mine.numbered and yours.numbered and set(mine.names) != set(yours.names):
            return False
        if mine.relations and yours.relations and len(mine.items) > 1 < len(yours.items):
            if not _same_connective(gold, prediction):
                return False
            whole = self._unordered(gold.parts, prediction.parts)
            if whole is not False or not mine.stems <= ROOTS:
                return whole
        kinds = (gold.kind, prediction.kind)
        if "half" in kinds or (kinds == ("square", "list") and len(mine.items) == 2):
            return False
        if mine.own != yours.own and "tuple" in kinds:
            mine, yours = mine.in_order(), yours.in_order()
        in_order = "tuple" in kinds or "matrix" in kinds or self._comparison.policy.ordered_lists
        ordered = mine.own or yours.own or in_order
        if "union" in kinds or not ordered:
            return self._unordered(mine.items, yours.items)
        return self.ordered(mine.items, yours.items) if len(mine.items) == len(yours.items) else False

    # --- equations and inequalities ----------------------------------------------------------------------------------

    def _relations(self, gold: Shape, prediction: Shape) -> bool | None:
        (g_label, g_sides), (p_label, p_sides) = label_and_sides(gold), label_and_sides(prediction)
        if gold.kind == prediction.kind == "relation":
            if g_label and p_label and self._same_label(g_label, p_label):
                return self._last(g_sides[-1], p_sides)
            return self._two_relations(gold, prediction)
        if gold.kind == "relation":
            return self.shapes(shape_of(g_sides[-1]), prediction) if g_label else False
        if p_label:
            return self._last(gold.source, p_sides)
        if set(prediction.detail) == {"="}:  # `\binom{5}{2} = 10` for gold 10, `x+y = 3+4 = 7` for gold 7
            computed = len(prediction.parts) > 2 and not any(map(has_variable, prediction.parts[1:]))
            return self._chain(gold.source, prediction.parts[1:] if computed else prediction.parts)
        return False

    def _last(self, gold: str, sides: Sequence[str]) -> bool | None:
        """The last side of `x = 3+3 = 6` is what is told; what we can't read in between tells something else."""
        if any(tree_of(side) is None for side in sides[:-1]):
            return False
        numerals = [side for side in sides[:-1] if isinstance(tree_of(side), Number)]
        return self.ordered([gold] * (len(numerals) + 1), [*numerals, sides[-1]])

    def _chain(self, gold: str, sides: Sequence[str]) -> bool | None:
        """Every side of a chain of equations must be the gold."""
        return self.ordered([gold] * len(sides), sides)

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
        if (same := self.ordered(g_sides, p_sides)) is True:
            return True
        operator = g_ops[0]
        if len(g_ops) > 1:
            return same
        if operator in ("=", r"\ne") and self.ordered(g_sides, p_sides[::-1]) is True:
            return True
        if is_solved(g_sides) and not is_solved(p_sides):
            return False
        g_text, p_text = (f"({left})-({right})" for left, right in (g_sides, p_sides))
        return self._comparison.proportional(g_text, p_text, positive=operator not in ("=", r"\ne"))


def _same_connective(gold: Shape, prediction: Shape) -> bool:
    """Whether inequalities are joined alike: "x > 1 and y > 2" is not "x > 1 or y > 2"; of solutions either is said."""
    if all(set(relation_parts(part)[1]) == {"="} for part in gold.parts):
        return True
    mine, yours = ({word for word in ("and", "or") if re.search(rf"\b{word}\b", s.source)} for s in (gold, prediction))
    return not mine or not yours or mine == yours


def every(outcomes: Sequence[bool | None]) -> bool | None:
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
