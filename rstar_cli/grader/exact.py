"""Exact values of constant expressions: integers, decimals, fractions, powers, roots that come out.

Every operation is bounded before it is done, so that no answer (`10**10000000`, `(10^9)!`) can hang the process.
"""

from __future__ import annotations

import math
from fractions import Fraction

from rstar_cli.grader.expression import Call, Expression, Number

MAX_BITS = 20_000
"""Bits of a numerator or denominator."""
_MAX_FACTORIAL = 1_000


class BoundsError(ArithmeticError):
    """An answer too large to compute with."""


def exact_value(tree: Expression) -> Fraction | None:
    """The rational number that an expression is, or None: not rational, not constant, not defined, or too large."""
    if isinstance(tree, Number):
        return tree.value
    if not isinstance(tree, Call):
        return None
    args = [exact_value(arg) for arg in tree.args]
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    value = _apply(tree.name, known)
    if value is None or max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return None
    return value


def _apply(name: str, args: list[Fraction]) -> Fraction | None:
    if name == "add":
        total = Fraction(0)
        for arg in args:
            total += arg
            if total.denominator.bit_length() > MAX_BITS:
                return None
        return total
    if name == "mul":
        return args[0] * args[1]
    if name == "div":
        return args[0] / args[1] if args[1] else None
    if name == "neg":
        return -args[0]
    if name == "abs":
        return abs(args[0])
    if name == "floor":
        return Fraction(math.floor(args[0]))
    if name == "ceil":
        return Fraction(math.ceil(args[0]))
    if name == "pow":
        return _power(args[0], args[1])
    if name == "root":
        return _root(args[0], args[1])
    if name == "factorial":
        n = args[0]
        return Fraction(math.factorial(int(n))) if n.denominator == 1 and 0 <= n <= _MAX_FACTORIAL else None
    if name == "binom":
        n, k = args
        whole = n.denominator == k.denominator == 1 and 0 <= k <= _MAX_FACTORIAL and 0 <= n <= _MAX_FACTORIAL
        return Fraction(math.comb(int(n), int(k))) if whole else None
    return None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _root(base, Fraction(exponent.denominator)) if base >= 0 else None
        return None if root is None else _power(root, Fraction(exponent.numerator))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (base == 0 and exponent <= 0) or bits * abs(exponent.numerator) > MAX_BITS:
        return None
    return base**exponent.numerator


def _root(value: Fraction, index: Fraction) -> Fraction | None:
    """The real root, if it is rational."""
    if index.denominator != 1 or not 2 <= index <= 64:
        return None
    n = index.numerator
    if value < 0:
        positive = _root(-value, index) if n % 2 else None
        return None if positive is None else -positive
    top, bottom = _integer_root(value.numerator, n), _integer_root(value.denominator, n)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, n: int) -> int | None:
    low, high = 0, 1 << (value.bit_length() // n + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**n < value:
            low = middle + 1
        else:
            high = middle
    return low if low**n == value else None
