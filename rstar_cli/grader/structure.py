r"""The outer structure of an answer: list, tuple, interval, set, matrix, union, ratio, relation or single expression.

Texts here are normal forms (see `normalize`); nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from rstar_cli.grader.normalize import closing_brace

Kind = Literal["single", "list", "set", "tuple", "square", "half", "matrix", "union", "ratio", "relation", "cases"]


@dataclass(frozen=True, slots=True)
class Shape:
    """An answer taken apart.

    Attributes:
        kind: `list` is bare (`1, 2`), `square` is `[...]` (a closed interval, or a list), `half` is `[...)` or `(...]`.
        parts: the texts of the elements; of a matrix row by row.
            Of `cases` value, condition, value, condition, ...
        detail: brackets of a `half`, operators of a `relation`, columns of a `matrix`; else empty.
        source: the whole text.
    """

    kind: Kind
    parts: tuple[str, ...]
    detail: tuple[str, ...] = ()
    source: str = ""


_OPENING = re.compile(r"\\\{|\\langle|\\lfloor|\\lceil|\\begin\{\w+\*?\}|[({\[]")
_CLOSING = re.compile(r"\\\}|\\rangle|\\rfloor|\\rceil|\\end\{\w+\*?\}|[)}\]]")
_AND_OR = (
    r"\\text\{,?\s*(?:and|or)\s*,?\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
    r"|(?<=[\d)}\]])(?:and|or)(?=[a-zA-Z](?:_\w)?\s?(?:[=<>]|\\[lg]e))"  # `x=-3orx=3`: some data sets lost their spaces
)
SEPARATOR = re.compile(rf",?\s*(?:{_AND_OR})|,")
_OUTER_SEPARATOR = re.compile(rf";|(?:{_AND_OR})")
_UNION = re.compile(r"\\cup|(?<=[)\]}])U(?=[(\[{\\])")
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|[<>=]")
_COLON = re.compile(r":")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_MINUS_PLUS = re.compile(r"\\mp(?![a-zA-Z])")
_INTEGER = re.compile(r"[+-]?\d{1,9}")
_MAX_WRITTEN_OUT = 200
_PART = re.compile(r"\(([a-h]|i{1,3}|iv|v)\)")
_ROMAN = ["i", "ii", "iii", "iv", "v"]
_BRACED_ROWS = re.compile(
    r"\\begin\{cases\}(.*)\\end\{cases\}"
    r"|\\\{\s*\\begin\{(?:array|aligned|matrix)\}(?:\{[^{}]*\})?(.*)\\end\{(?:array|aligned|matrix)\}\.?",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-zA-Z])")
_EQUALS = re.compile(r"\s*=")
_CONDITION_WORD = re.compile(
    r"\\text\{\s*(?:if|for|when)\s*\}|\\text\{\s*(?:if|for|when)\s+|^(?:if|for|when)(?![a-zA-Z])"
)
_MATRIX = re.compile(r"\\begin\{((?:[pb]|small)?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_SIGN = re.compile(r"[-+]")
_SCALED = re.compile(
    r"([^\[,=&]*[^\[,=&(])(?:\*|\\cdot|\\times)?(\\begin\{[pb]?matrix\}.*\\end\{[pb]?matrix\})", re.DOTALL
)
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
    if parts := _labelled_parts(text):
        return Shape("tuple", parts)
    if cases := _cases(text):
        return cases
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
    return _written_out(tuple(sign for items in inner for item in items for sign in _plus_minus(item)))


def _plus_minus(item: str) -> tuple[str, ...]:
    r"""`1 \pm x` is two values; so is `(\pm 1, \mp 1)`, where the signs go together."""
    if len(_PLUS_MINUS.findall(item)) != 1 or item.startswith((r"\{", "[")):
        return (item,)
    upper, lower = (_PLUS_MINUS.sub(sign, _MINUS_PLUS.sub(other, item)) for sign, other in ("+-", "-+"))
    return upper, lower


def _written_out(items: tuple[str, ...]) -> tuple[str, ...]:
    r"""`0, 1, 2, \ldots, 10` without the dots, if it counts in equal steps."""
    if items.count(r"\ldots") != 1 or len(items) < 4 or items[-1] == r"\ldots":
        return items
    at = items.index(r"\ldots")
    numbers = [int(item) if _INTEGER.fullmatch(item) else None for item in items if item != r"\ldots"]
    if at < 2 or None in numbers:
        return items
    known = [number for number in numbers if number is not None]
    step, last = known[1] - known[0], known[-1]
    count = (last - known[0]) // step + 1 if step else 0
    if not 0 < count <= _MAX_WRITTEN_OUT:
        return items
    counted = [known[0] + i * step for i in range(count)]
    fits = counted[:at] == known[:at] and counted[at - len(known) :] == known[at:]
    return tuple(map(str, counted)) if fits else items


def _labelled_parts(text: str) -> tuple[str, ...]:
    """`(a) 5 (b) 6`: the answers to the parts of a problem, in order; none if it is no such text."""
    found = list(_PART.finditer(text))
    labels = [match[1] for match in found]
    if len(found) < 2 or found[0].start() or labels not in (list("abcdefgh"[: len(found)]), _ROMAN[: len(found)]):
        return ()
    ends = [match.start() for match in found[1:]] + [len(text)]
    parts = [text[match.end() : end].strip(" ,;=:") for match, end in zip(found, ends, strict=True)]
    return tuple(parts) if all(parts) else ()


def _cases(text: str) -> Shape | None:
    """A function by cases, or a system of equations between a brace (a list)."""
    match = _BRACED_ROWS.fullmatch(text)
    if match is None:
        return None
    rows = [row.strip(" ,;") for row in _ROW_END.split(match[1] if match[1] is not None else match[2])]
    cells = [
        [cell.strip(" ,;") for cell in re.split(r"&|(?=\\text\{\s*(?:if|for|when|otherwise))", row)] for row in rows
    ]
    cells = [[cell for cell in row if cell] for row in cells]
    cells = [row for row in cells if row]
    if cells and all(len(row) == 2 and not _EQUALS.match(row[1]) for row in cells):
        parts = [part for value, condition in cells for part in (value, _CONDITION_WORD.sub("", condition).strip(" ,"))]
        return Shape("cases", tuple(parts))
    return Shape("list", tuple("".join(row) for row in cells)) if len(cells) > 1 else None


def _matrix(text: str) -> Shape | None:
    while text.startswith("(") and text.endswith(")") and encloses(text):
        text = text[1:-1].strip()
    factor = ""
    if (scaled := _SCALED.fullmatch(text)) and len(split_top(scaled[1][1:], _SIGN)[0]) == 1:
        factor, text = ("-1" if scaled[1] == "-" else scaled[1]), scaled[2]
    text = re.sub(r"^\[\s*(\\begin\{array\}.*\\end\{array\})\s*\]$|^Matrix\((.*)\)$", r"\1\2", text, flags=re.DOTALL)
    if match := _MATRIX.fullmatch(text):
        rows = [row.strip() for row in _ROW_END.split(match[2])]
        cells = [[cell.strip() for cell in row.split("&")] for row in rows if row and row != r"\hline"]
    elif (outer := _inside(text, "[", "]")) and all(len(_inside(row, "[", "]")) > (len(outer) == 1) for row in outer):
        cells = [list(_inside(row, "[", "]")) for row in outer]
    else:
        return None
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    entries = [f"({factor})*({cell})" if factor else cell for row in cells for cell in row]
    return Shape("matrix", tuple(entries), (str(len(cells[0])),))


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
    if not (text.startswith(opening) and text.endswith(closing)) or not encloses(text):
        return ()
    inner = text[len(opening) : len(text) - len(closing)].strip().rstrip(",")
    return list_items(inner) if inner else ()


def encloses(text: str) -> bool:
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
