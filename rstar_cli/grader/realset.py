r"""Sets of real numbers, however they are written: intervals, unions, inequalities, conditions, what is left out.

`x < -2 \text{ or } x > 3`, `(-\infty,-2)\cup(3,\infty)`, `\{x \mid x \ne 2\}`, `\mathbb{R}\setminus\{2\}` all become
sorted pieces between two ends, so that two such answers can be compared by what they mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cmp_to_key

from rstar_cli.grader.labels import is_symbol, tree_of
from rstar_cli.grader.structure import encloses, list_items, relation_parts, shape_of, split_top

_LOWEST, _HIGHEST = r"-\infty", r"\infty"
_HINT = re.compile(
    r"\\(?:le|ge|ne|cup|cap|setminus|infty|emptyset|in)(?![a-zA-Z])|[<>]|\\mathbb\{?\s*R|[)\]]\s*U\s*[(\[]"
    r"|(?i:all (?:the )?(?:real )?(?:numbers|reals|x\b)|real numbers|no (?:real )?solutions?|empty set|otherwise)"
)
_OR = re.compile(
    r"\\text\{,?\s*or\s*,?\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|(?<=[\d)}\]])or(?=[a-zA-Z]\s?(?:[<>]|\\[lgn]e))|\\vee(?![a-zA-Z])"
)
_AND = re.compile(r"\\text\{,?\s*and\s*,?\}|(?<![a-zA-Z\\])and(?![a-zA-Z])|\\wedge(?![a-zA-Z])|;")
_COMMA = re.compile(r",")
_CUP = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]}])U(?=[(\[{\\])")
_CAP = re.compile(r"\\cap(?![a-zA-Z])")
_WITHOUT = re.compile(r"\\setminus(?![a-zA-Z])|(?<=[}R)])\s*[-\\]\s*(?=\\\{)")
_IN = re.compile(r"\\in(?![a-zA-Z])")
_SUCH_THAT = re.compile(r"\||:")
_ALL = re.compile(
    r"\\mathbb\{?\s*R\s*\}?|(?i:(?:the )?(?:set of )?(?:all )?(?:the )?(?:real numbers|reals)|all numbers)"
)
_ALL_BUT = re.compile(
    r"(?i:(?:the )?(?:set of )?(?:all )?(?:real numbers|reals)(?: \w)? ?"
    r"(?:except|but|other than|excluding)(?: for)?) ?(.+)"
)
_DISTANCE = re.compile(r"\|(\w|\\\w+)([-+][\d./]+)?\|")
_BRACED = re.compile(r"\\?\{(.*?)\\?\}", re.DOTALL)
_INTEGERS = re.compile(r"\\mathbb\{?\s*([ZN])\s*\}?")
_NONE = re.compile(
    r"\\emptyset|\\\{\s*\\\}|\[\s*\]|(?i:(?:there (?:is|are) )?no (?:real )?solutions?|(?:the )?empty set|none)"
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_FLIPPED = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
_MAX_PIECES = 100

Value = Callable[[str], Fraction | None]
"""The value of a constant text; None where it has none (a variable, a complex number)."""


class NotASetError(ValueError):
    """The text is no set of real numbers, or none that can be told here."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The numbers between two ends (texts; infinity is never part of it). A point is `[a, a]`."""

    low: str
    high: str
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class RealSet:
    """Disjoint pieces in order, and the variable that the text gave them (or nothing)."""

    pieces: tuple[Piece, ...]
    name: str = ""


EVERYTHING = RealSet((Piece(_LOWEST, _HIGHEST, False, False),))


def may_be_set(text: str) -> bool:
    """Whether a normal form shows a sign of a set, beyond the brackets that a point has too."""
    return bool(_HINT.search(text)) or shape_of(text).kind == "half"


class SetReader:
    """Reads normal forms.

    Args:
        value: how constants are ordered; it may raise what it wants.
    """

    def __init__(self, value: Value) -> None:
        self._value = value

    def read(self, text: str, *, by_condition: bool = False) -> RealSet:
        """The set that a text stands for.

        Args:
            text: a normal form.
            by_condition: it is the condition of a set-builder, in which "and" is never said for "or".

        Raises:
            NotASetError: it stands for none, or its ends can't be ordered.
        """
        text = _peeled(text)
        plain = " ".join(_TEXT.sub(r" \1 ", text).split())
        if _ALL.fullmatch(plain):
            return EVERYTHING
        if _NONE.fullmatch(plain):
            return RealSet(())
        if match := _ALL_BUT.fullmatch(plain):
            return self._without(EVERYTHING, self._points(list_items(match[1])))
        both = self._meet if by_condition else self._both
        for separator, join in ((_OR, self._union), (_CUP, self._union), (_AND, both), (_CAP, self._meet)):
            parts, _ = split_top(text, separator)
            if len(parts) > 1 and all(parts):
                sets = [self.read(part, by_condition=by_condition) for part in parts]
                result = sets[0]
                for other in sets[1:]:
                    result = join(result, other)
                return result
        return self._simple(text)

    def same(self, one: RealSet, other: RealSet, equal: Callable[[str, str], bool | None]) -> bool | None:
        """Whether two sets are equal; `equal` compares their ends."""
        if one.name and other.name and one.name != other.name:
            return False
        if len(one.pieces) != len(other.pieces):
            return False
        outcomes: list[bool | None] = []
        for mine, yours in zip(one.pieces, other.pieces, strict=True):
            if (mine.has_low, mine.has_high) != (yours.has_low, yours.has_high):
                return False
            outcomes += [equal(mine.low, yours.low), equal(mine.high, yours.high)]
        return False if False in outcomes else None if None in outcomes else True

    def complement(self, inner: RealSet) -> RealSet:
        """The real numbers that are not in a set."""
        pieces: list[Piece] = []
        low, has_low = _LOWEST, False
        for piece in inner.pieces:
            if piece.low != _LOWEST:
                pieces.append(Piece(low, piece.low, has_low, not piece.has_low))
            low, has_low = piece.high, not piece.has_high
        if low != _HIGHEST:
            pieces.append(Piece(low, _HIGHEST, has_low, False))
        return RealSet(tuple(pieces), inner.name)

    def rest(self, sets: Sequence[RealSet]) -> RealSet:
        """The real numbers that are in none of the sets.

        Raises:
            NotASetError: their ends can't be ordered.
        """
        together = RealSet(())
        for each in sets:
            together = self._union(together, each)
        return self.complement(together)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _simple(self, text: str) -> RealSet:
        parts, _ = split_top(text, _WITHOUT)
        if len(parts) == 2:
            return self._without(self.read(parts[0]), self.read(parts[1]))
        items = list_items(text)
        if len(items) > 1:
            return self._conditions(items)
        parts, _ = split_top(text, _IN)
        if len(parts) == 2 and is_symbol(parts[0]):
            return replace(self.read(parts[1]), name=parts[0])
        if builder := _condition(text):
            condition, among, name = builder
            found = self.read(condition, by_condition=True)
            if found.name not in ("", name):
                raise NotASetError
            found = replace(found, name="")
            return found if not among else self._integers(found, positive=among == "N")
        sides, operators = relation_parts(text)
        if operators:
            return self._relation(sides, operators)
        shape = shape_of(text)
        if shape.kind == "set":
            return self._points(shape.parts)
        if text.startswith(r"\{") and text.endswith(r"\}"):
            return self._points((text[2:-2],))
        if shape.kind in ("tuple", "square", "half") and len(shape.parts) == 2:
            opening, closing = shape.detail or (("(", ")") if shape.kind == "tuple" else ("[", "]"))
            return self._between(*shape.parts, opening == "[", closing == "]")
        raise NotASetError

    def _conditions(self, items: Sequence[str]) -> RealSet:
        r"""`x > 1, x < 3` holds all at once; in `x \ne 1, 2` the relation holds for each."""
        sides, operators = relation_parts(items[0])
        if operators == [r"\ne"] and not any(relation_parts(item)[1] for item in items[1:]):
            items = [items[0], *(rf"{sides[0]}\ne {item}" for item in items[1:])]
        if len(items) > _MAX_PIECES or not all(relation_parts(item)[1] or _IN.search(item) for item in items):
            raise NotASetError
        result = self.read(items[0])
        for item in items[1:]:
            result = self._meet(result, self.read(item))
        return result

    def _relation(self, sides: list[str], operators: list[str]) -> RealSet:
        if all(operator in (">", r"\ge") for operator in operators):
            sides, operators = sides[::-1], [_FLIPPED[operator] for operator in operators[::-1]]
        if any(map(_DISTANCE.fullmatch, sides)):
            return self._distances(sides, operators)
        where = [i for i, side in enumerate(sides) if is_symbol(side)]
        if len(sides) == 2 and len(where) == 2:  # `x > a`: what is asked for stands first
            where = [sides.index(sides[0])] if operators[0] in ("=", r"\ne") else where[:1]
        if len(where) != 1 or len(sides) > 3 or (len(sides) == 3 and where != [1]):
            raise NotASetError
        name = sides[where[0]]
        if operators[0] in ("=", r"\ne") and len(sides) == 2:
            if tree_of(sides[1 - where[0]]) is None:
                raise NotASetError
            points = self._points((sides[1 - where[0]],))
            return replace(points if operators[0] == "=" else self.complement(points), name=name)
        if not all(operator in ("<", r"\le") for operator in operators):
            raise NotASetError
        if len(sides) == 2:
            sides = [_LOWEST, *sides] if where == [0] else [*sides, _HIGHEST]
            operators = ["<", *operators] if where == [0] else [*operators, "<"]
        return replace(self._between(sides[0], sides[2], operators[0] == r"\le", operators[1] == r"\le"), name=name)

    def _distances(self, sides: list[str], operators: list[str]) -> RealSet:
        r"""`|x-1| < 3`, `1 \le |x| \le 4`: a set of distances, from a point to both sides."""
        found = next(match for match in map(_DISTANCE.fullmatch, sides) if match)
        name, shift = found[1], found[2] or "+0"
        away = self._relation([name if side == found[0] else side for side in sides], operators)
        away = self._meet(away, RealSet((Piece("0", _HIGHEST, True, False),)))
        pieces = RealSet((), name)
        for piece in away.pieces:
            for sign in ("", "-"):
                near, far = (f"{sign}({end})-(0{shift})" for end in (piece.low, piece.high))
                if piece.high == _HIGHEST:
                    far = sign + _HIGHEST
                part = Piece(near, far, piece.has_low, piece.has_high)
                if sign:
                    part = Piece(far, near, piece.has_high, piece.has_low)
                pieces = self._union(pieces, RealSet((part,), name))
        return pieces

    def _integers(self, found: RealSet, *, positive: bool) -> RealSet:
        """The integers in a bounded set."""
        points: list[str] = []
        for piece in found.pieces:
            if (low := self._value(piece.low)) is None or (high := self._value(piece.high)) is None:
                raise NotASetError
            first, last = math.ceil(low), math.floor(high)
            if last - first > _MAX_PIECES:
                raise NotASetError
            inside = [n for n in range(first, last + 1) if (piece.has_low or n > low) and (piece.has_high or n < high)]
            points += [str(n) for n in inside if n > 0 or not positive]
        return self._points(points)

    def _points(self, items: Sequence[str]) -> RealSet:
        values = []
        for item in items:
            sides, operators = relation_parts(item)
            if operators and (operators != ["="] or not is_symbol(sides[0])):
                raise NotASetError
            values.append(sides[-1])
        result = RealSet(())
        for value in values:
            result = self._union(result, RealSet((Piece(value, value, True, True),)))
        return result

    def _between(self, low: str, high: str, has_low: bool, has_high: bool) -> RealSet:
        low, high = _end(low), _end(high)
        if (low == _LOWEST and has_low) or (high == _HIGHEST and has_high):
            raise NotASetError
        return RealSet((Piece(low, high, has_low, has_high),))

    # --- arithmetic of sets ------------------------------------------------------------------------------------------

    def _union(self, one: RealSet, other: RealSet) -> RealSet:
        name = _common(one, other)
        pieces = [*one.pieces, *other.pieces]
        if len(pieces) > _MAX_PIECES:
            raise NotASetError
        pieces.sort(key=cmp_to_key(lambda a, b: self._compare(a.low, b.low) or b.has_low - a.has_low))
        merged = pieces[:1]
        for piece in pieces[1:]:
            last = merged[-1]
            gap = self._compare(last.high, piece.low)
            if gap < 0 or (gap == 0 and not (last.has_high or piece.has_low)):
                merged.append(piece)
                continue
            reach = self._compare(piece.high, last.high)
            if reach > 0:
                merged[-1] = replace(last, high=piece.high, has_high=piece.has_high)
            elif reach == 0:
                merged[-1] = replace(last, has_high=last.has_high or piece.has_high)
        return RealSet(tuple(merged), name)

    def _meet(self, one: RealSet, other: RealSet) -> RealSet:
        name = _common(one, other)
        pieces = [self._overlap(mine, yours) for mine in one.pieces for yours in other.pieces]
        return RealSet(tuple(piece for piece in pieces if piece is not None), name)

    def _both(self, one: RealSet, other: RealSet) -> RealSet:
        """What meets two conditions; where nothing does, "and" has been said for "or"."""
        met = self._meet(one, other)
        return met if met.pieces else self._union(one, other)

    def _without(self, one: RealSet, other: RealSet) -> RealSet:
        return self._meet(one, replace(self.complement(other), name=""))

    def _overlap(self, mine: Piece, yours: Piece) -> Piece | None:
        side = self._compare(mine.low, yours.low)
        low = mine.low if side > 0 else yours.low
        has_low = (mine.has_low or side < 0) and (yours.has_low or side > 0)
        side = self._compare(mine.high, yours.high)
        high = mine.high if side < 0 else yours.high
        has_high = (mine.has_high or side > 0) and (yours.has_high or side < 0)
        side = self._compare(low, high)
        return Piece(low, high, has_low, has_high) if side < 0 or (side == 0 and has_low and has_high) else None

    def _compare(self, one: str, other: str) -> int:
        """-1, 0 or 1, as an end lies before another one, at it or after it."""
        if one == other:
            return 0
        if one in (_LOWEST, _HIGHEST):
            return -1 if one == _LOWEST else 1
        if other in (_LOWEST, _HIGHEST):
            return 1 if other == _LOWEST else -1
        first, second = self._value(one), self._value(other)
        if first is None or second is None:
            raise NotASetError
        return (first > second) - (first < second)


def _common(one: RealSet, other: RealSet) -> str:
    if one.name and other.name and one.name != other.name:
        raise NotASetError
    return one.name or other.name


def _end(text: str) -> str:
    if text.lstrip("+-") not in (r"\infty", "oo", "infty", "infinity", "inf"):
        return text
    return _LOWEST if text.startswith("-") else _HIGHEST


def _peeled(text: str) -> str:
    """Without brackets around a whole condition."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and encloses(text):
        inner = text[1:-1].strip()
        if not relation_parts(inner)[1] or len(split_top(inner, _COMMA)[0]) > 1:
            return text
        text = inner
    return text


def _condition(text: str) -> tuple[str, str, str] | None:
    r"""The condition of `\{x \mid condition\}`, `Z` or `N` where it is one on integers, and x; None for other texts."""
    match = _BRACED.fullmatch(text)
    if match is None:
        return None
    parts, _ = split_top(match[1], _SUCH_THAT)
    if len(parts) < 2:
        return None
    name, _, domain = parts[0].partition(r"\in")
    among = _INTEGERS.fullmatch(domain.strip())
    if not is_symbol(name.strip()) or not (among or not domain or _ALL.fullmatch(domain.strip())):
        return None
    return match[1][len(parts[0]) :].lstrip()[1:].strip(), among[1] if among else "", name.strip()
