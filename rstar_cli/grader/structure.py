r"""The outer structure of an answer: list, tuple, interval, set, matrix, union, ratio, relation or single expression.

Texts here are normal forms (see `normalize`); nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from rstar_cli.grader.normalize import closing_brace

Kind = Literal["single", "list", "set", "tuple", "square", "half", "matrix", "union", "ratio", "relation"]


@dataclass(frozen=True, slots=True)
class Shape:
    """An answer taken apart.

    Attributes:
        kind: `list` is bare (`1, 2`), `square` is `[...]` (a closed interval, or a list), `half` is `[...)` or `(...]`.
        parts: the texts of the elements; of a matrix row by row.
        detail: brackets of a `half`, operators of a `relation`, columns of a `matrix`; else empty.
        source: the whole text.
    """

    kind: Kind
    parts: tuple[str, ...]
    detail: tuple[str, ...] = ()
    source: str = ""


_OPENING = re.compile(r"\\\{|\\langle|\\lfloor|\\lceil|\\begin\{\w+\*?\}|[({\[]")
_CLOSING = re.compile(r"\\\}|\\rangle|\\rfloor|\\rceil|\\end\{\w+\*?\}|[)}\]]")
_AND_OR = r"\\text\{,?\s*(?:and|or)\s*,?\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
SEPARATOR = re.compile(rf",?\s*(?:{_AND_OR})|,")
_OUTER_SEPARATOR = re.compile(rf";|(?:{_AND_OR})")
_UNION = re.compile(r"\\cup|(?<=[)\]}])U(?=[(\[{\\])")
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|[<>=]")
_COLON = re.compile(r":")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle", "{": "}"}


def split_top(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Split outside of all brackets: the parts, and the separators between them."""
    parts, found = [], []
    depth = start = at = 0
    while at < len(text):
        match = separator.match(text, at) if not depth else None
        if match and match.end() > at:
            parts.append(text[start:at].strip())
            found.append(match[0])
            start = at = match.end()
        elif bracket := _OPENING.match(text, at):
            depth, at = depth + 1, bracket.end()
        elif bracket := _CLOSING.match(text, at):
            depth, at = max(depth - 1, 0), bracket.end()
        else:
            at += 2 if text[at] == "\\" else 1
    parts.append(text[start:].strip())
    return parts, found


def relation_parts(text: str) -> tuple[list[str], list[str]]:
    """The sides of an equation or inequality, or of a chain of them, and the operators between."""
    return split_top(text, _RELATION)


@lru_cache(maxsize=4096)
def shape_of(text: str) -> Shape:
    """Take an answer apart, one level."""
    return replace(_shape(text), source=text)


def _shape(text: str) -> Shape:
    items = list_items(text)
    if len(items) > 1:
        return Shape("list", items)
    text = items[0] if items else text
    union, _ = split_top(text, _UNION)
    if len(union) > 1 and all(union):
        return Shape("union", tuple(union))
    sides, operators = relation_parts(text)
    if operators:
        return Shape("relation", tuple(sides), tuple(operators))
    if matrix := _matrix(text):
        return matrix
    if bracketed := _bracketed(text):
        return bracketed
    ratio, _ = split_top(text, _COLON)
    if len(ratio) in (2, 3) and all(ratio):
        return Shape("ratio", tuple(ratio))
    return Shape("single", (text,))


def list_items(text: str) -> tuple[str, ...]:
    r"""Elements of a bare list: `1, 2`; `1 \text{ and } 2`; `1; 2`; `\pm 1`. One element if it is none."""
    outer, _ = split_top(text, _OUTER_SEPARATOR)
    outer = [part.strip(", ") for part in outer]
    inner = [[item for item in split_top(part, SEPARATOR)[0] if item] for part in outer if part]
    widths = {len(items) for items in inner}
    if len(inner) > 1 and len(widths) == 1 and widths != {1}:
        return tuple(part for part in outer if part)  # `p=5,q=2; p=7,q=2` is a list of two lists
    return tuple(sign for items in inner for item in items for sign in _plus_minus(item))


def _plus_minus(item: str) -> tuple[str, ...]:
    if len(_PLUS_MINUS.findall(item)) != 1 or r"\mp" in item:
        return (item,)
    return _PLUS_MINUS.sub("+", item), _PLUS_MINUS.sub("-", item)


def _matrix(text: str) -> Shape | None:
    while text.startswith("(") and text.endswith(")") and _encloses(text):
        text = text[1:-1].strip()
    text = re.sub(r"^\[\s*(\\begin\{array\}.*\\end\{array\})\s*\]$|^Matrix\((.*)\)$", r"\1\2", text, flags=re.DOTALL)
    if match := _MATRIX.fullmatch(text):
        rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-zA-Z])", match[2])]
        cells = [[cell.strip() for cell in row.split("&")] for row in rows if row and row != r"\hline"]
    elif (outer := _inside(text, "[", "]")) and len(outer) > 1 and all(_inside(row, "[", "]") for row in outer):
        cells = [list(_inside(row, "[", "]")) for row in outer]
    else:
        return None
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    return Shape("matrix", tuple(cell for row in cells for cell in row), (str(len(cells[0])),))


def _bracketed(text: str) -> Shape | None:
    for opening, closing in _BRACKETS.items():
        parts = _inside(text, opening, closing)
        if parts:
            if len(parts) == 1:
                return shape_of(parts[0])
            kind: Kind = "tuple" if closing in (")", r"\rangle") else "square" if closing == "]" else "set"
            return Shape(kind, parts)
    for opening, closing in (("(", "]"), ("[", ")")):
        parts = _inside(text, opening, closing)
        if len(parts) == 2:
            return Shape("half", parts, (opening, closing))
    return None


def _inside(text: str, opening: str, closing: str) -> tuple[str, ...]:
    """The elements between a pair of brackets around the whole text; none if there is no such pair."""
    if not (text.startswith(opening) and text.endswith(closing)) or not _encloses(text):
        return ()
    inner = text[len(opening) : len(text) - len(closing)].strip().rstrip(",")
    return list_items(inner) if inner else ()


def _encloses(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end."""
    if text.startswith("{") and closing_brace(text, 0) != len(text) - 1:
        return False
    depth, at = 0, 0
    while at < len(text):
        if bracket := _OPENING.match(text, at):
            depth, at = depth + 1, bracket.end()
        elif bracket := _CLOSING.match(text, at):
            depth, at = depth - 1, bracket.end()
            if depth <= 0:
                return depth == 0 and at == len(text)
        else:
            at += 1
    return False


def interval_of(shape: Shape, is_symbol: re.Pattern[str]) -> Shape | None:
    r"""The interval that an inequality in one variable stands for: `x \ge 5` is `[5, \infty)`; None for others."""
    if shape.kind != "relation" or any(op in ("=", r"\ne") for op in shape.detail):
        return None
    sides, operators = list(shape.parts), list(shape.detail)
    if all(op in (">", r"\ge") for op in operators):
        sides, operators = sides[::-1], ["<" if op == ">" else r"\le" for op in operators[::-1]]
    if any(op in (">", r"\ge") for op in operators):
        return None
    where = [i for i, side in enumerate(sides) if is_symbol.fullmatch(side)]
    if len(where) != 1 or (len(sides) == 3 and where != [1]) or len(sides) > 3:
        return None
    if len(sides) == 2:
        sides = [r"-\infty", *sides] if where == [0] else [*sides, r"\infty"]
        operators = ["<", *operators] if where == [0] else [*operators, "<"]
    return bracket_shape("[" if operators[0] == r"\le" else "(", (sides[0], sides[2]), operators[1] == r"\le")


def bracket_shape(opening: str, ends: Sequence[str], closed_right: bool) -> Shape:
    """An interval from its ends."""
    closing = "]" if closed_right else ")"
    kinds: dict[str, Kind] = {"()": "tuple", "[]": "square"}
    kind = kinds.get(opening + closing, "half")
    return Shape(kind, tuple(ends), (opening, closing) if kind == "half" else ())
