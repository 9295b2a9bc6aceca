r"""Names beside a value: `x = 5`, `f(x) = 2x`, `A(1, 2)`, `(x, y) = (1, 2)`, `x_1 = 2, x_2 = 3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rstar_cli.grader.expression import Call, Expression, Symbol, parse
from rstar_cli.grader.lexer import UnparsedError
from rstar_cli.grader.structure import Shape, encloses, list_items, relation_parts, shape_of, split_top

_WORD_NAME = r"[a-zA-Z]{1,3}(?![a-zA-Z])|[A-Za-z][a-z]{3,11}(?![a-zA-Z])"
_ACCENTED = r"\\(?:text|vec|hat|bar|overline|overrightarrow|mathbb)\{[^{}]*\}"
_BARE_NAME = rf"(?:{_ACCENTED}|\\(?!in|le|ge|ne)[a-zA-Z]+\s?|{_WORD_NAME})"
_NAME = rf"(?:\\(?:angle|triangle|Delta)\s?)?{_BARE_NAME}(?:_(?:\{{[^{{}}]*\}}|\w))?'*"
SYMBOL = re.compile(_NAME)
_LABEL = re.compile(rf"{_NAME}(?:\^\{{-1\}})?(?:\([^()=]*\))?|\({_NAME}(?:,{_NAME})+\)|{_NAME}:{_NAME}|\|{_NAME}\|")
_FUNCTION_CALL = re.compile(r"\\(?:sin|cos|tan|ln|log|exp|sec|csc|cot|arc\w+|sqrt|binom)(?![a-zA-Z])")
_DERIVATIVE = re.compile(r"\\frac\{d\^?\d?\w\}\{d\w(?:\^\d)?\}|d\w/d\w")
_CONSTANTS = (r"\pi", "e", "i", r"\emptyset")
_DENIAL = re.compile(r"\b(?:not|wrong|n't)\b")
_OPERATION = re.compile(r"\\int.*d\w|\\(?:lim|sum|prod)(?![a-zA-Z]).*", re.DOTALL)
_POINT = re.compile(r"([A-Z](?:_\w|'+)?)\s?(\(.*\))")
_IN = re.compile(r"\\in(?![a-zA-Z])")
_APPROX = re.compile(r"\\approx(?![a-zA-Z])")
ROOTS = frozenset("xyztr")
"""Unknowns whose values are told in any order: `x_1 = 2, x_2 = 3` is `x = 3, x = 2`."""
_COMMA = re.compile(r",")


def tree_of(text: str) -> Expression | None:
    """The expression that a normal form is, if it is one that our parser knows."""
    try:
        return parse(text)
    except UnparsedError:
        return None


def is_symbol(text: str) -> bool:
    """Whether a text is the name of a variable, and no constant."""
    return bool(SYMBOL.fullmatch(text)) and text not in _CONSTANTS


def is_label(text: str) -> bool:
    r"""Whether a text can name what stands after an equals sign: `x`, `f(x)`, `(x,y)`, `\angle A`, `\frac{dy}{dx}`."""
    if text in _CONSTANTS or _DENIAL.search(text):
        return False
    return (bool(_LABEL.fullmatch(text)) and not _FUNCTION_CALL.match(text)) or any(
        pattern.fullmatch(text) for pattern in (_DERIVATIVE, _OPERATION)
    )


def named_point(text: str) -> str:
    """`A(1,2)` as the equation `A=(1,2)`; other texts unchanged."""
    match = _POINT.fullmatch(text)
    if match and encloses(match[2]) and len(split_top(match[2][1:-1], _COMMA)[0]) > 1:
        return f"{match[1]}={match[2]}"
    return text


def value_of(text: str) -> str:
    r"""`\frac{1}{3} \approx 0.33` is a third; `x \approx 0.33` says what x is; `A(1,2)` is the point A."""
    if r"\approx" not in text:
        return named_point(text)
    parts, _ = split_top(text, _APPROX)
    if len(parts) == 1 or len(list_items(text)) > 1:
        return text
    first = parts[0]
    if not first or is_label(first):
        return f"{first}={parts[1]}" if first else parts[1]
    return first


def unnamed(text: str) -> tuple[str, str]:
    r"""The name and the rest of `D = [0, 1)`; no name in `x \in D` and where there is none."""
    member, _ = split_top(text, _IN)
    if len(member) == 2 and is_label(member[0]) and len(list_items(text)) == 1:
        return "", member[1]
    sides, operators = relation_parts(text)
    if operators[:1] == ["="] and is_label(sides[0]):
        return sides[0], text[text.index("=", len(sides[0])) + 1 :].strip()
    return "", text


def expanded(shape: Shape) -> Shape:
    """`(x,y)=(1,2)` as the list `x=1, y=2`; other shapes unchanged."""
    if shape.kind != "relation" or shape.detail != ("=",) or not is_label(shape.parts[0]):
        return shape
    names, values = shape_of(shape.parts[0]), shape_of(shape.parts[1])
    if names.kind != "tuple" or values.kind != "tuple" or len(names.parts) != len(values.parts):
        return shape
    return replace(shape, kind="list", parts=tuple(f"{n}={v}" for n, v in zip(names.parts, values.parts, strict=True)))


def label_and_sides(shape: Shape) -> tuple[str, tuple[str, ...]]:
    """The name of an unknown and the sides of the chain of equations behind it; empty where it is something else."""
    if shape.kind == "relation" and set(shape.detail) == {"="} and is_label(shape.parts[0]):
        return shape.parts[0], shape.parts[1:]
    return "", ()


@dataclass(frozen=True, slots=True)
class Named:
    """The elements of a list.

    Attributes:
        items: the elements without their names.
        names: the name of each, perhaps empty.
        own: whether each has a name of its own (`x=1, y=2`), so that the names and not the order tell which is which.
        relations: whether every element is an equation or inequality.
        stems: the names without their subscripts.
    """

    items: tuple[str, ...]
    names: tuple[str, ...]
    own: bool
    relations: bool
    stems: frozenset[str]

    @property
    def numbered(self) -> bool:
        """Whether the names differ by their subscripts (`x_1=1, x_2=2`)."""
        return len(set(self.names)) == len(self.names) and all("_" in name for name in self.names)

    def in_order(self) -> Named:
        """Sorted by name where the names are coordinates."""
        if not self.own or "".join(sorted(self.names)) not in ("xy", "xyz"):
            return self
        names, items = zip(*sorted(zip(self.names, self.items, strict=True)), strict=True)
        return replace(self, names=names, items=items)


def names_and_items(shape: Shape) -> Named:
    """Take the names off the elements of a list."""
    names: list[str] = []
    items: list[str] = []
    relations = True
    for part in map(value_of, shape.parts):
        sides, operators = relation_parts(part)
        named = set(operators) == {"="} and is_label(sides[0]) and len(list_items(part)) == 1
        named = named and all(tree_of(side) is not None for side in sides[1:-1])
        names.append(sides[0] if named else "")
        items.append(sides[-1] if named else part)
        relations = relations and bool(operators)
    stems = frozenset(name.split("_")[0] for name in names if name)
    own = all(names) and len(set(names)) == len(names) and (len(stems) == len(names) or not stems <= ROOTS)
    return Named(tuple(items), tuple(names), own, relations, stems)


def has_variable(text: str) -> bool:
    """Whether a text holds a variable, or anything that our parser doesn't know."""
    tree = tree_of(text)
    return tree is None or bool(symbols_of(tree) - {"pi", "e", "i"})


def symbols_of(tree: Expression) -> set[str]:
    """The names in an expression, constants too."""
    if isinstance(tree, Symbol):
        return {tree.name}
    if isinstance(tree, Call) and tree.name.endswith("("):  # an unknown function is one too
        return {tree.name}.union(*map(symbols_of, tree.args))
    return set().union(*map(symbols_of, getattr(tree, "args", ())))


def oriented(relation: Shape) -> tuple[list[str], list[str]]:
    r"""Sides and operators, turned so that it reads upwards (`<`, `\le`)."""
    sides, operators = list(relation.parts), list(relation.detail)
    if operators[0] in (">", r"\ge"):
        flipped = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
        return sides[::-1], [flipped.get(op, op) for op in operators[::-1]]
    return sides, operators


def is_solved(sides: Sequence[str]) -> bool:
    """Whether an equation's sides are an unknown and a constant."""
    return any(SYMBOL.fullmatch(side) for side in sides) and any(not has_variable(side) for side in sides)
