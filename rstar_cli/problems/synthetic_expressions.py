"""Arithmetic of the synthetic problems: an expression is both Python text and an exact value, without `eval`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = int | Fraction


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier step, counted from 0."""

    index: int


Operand = int | Ref


@dataclass(frozen=True, slots=True)
class Op:
    """A formula over operands. Calling it with operands gives an `Expr`.

    Attributes:
        template: its Python, operands as `{0}`, `{1}`, ...; it may leave some out.
        function: the same on values.
        imported: the line of Python that it needs first; empty for builtins alone.
    """

    template: str
    function: Callable[..., Number]
    imported: str = ""

    def __call__(self, *operands: Operand) -> Expr:
        """The formula applied to literals and earlier values."""
        return Expr(self, operands)


@dataclass(frozen=True, slots=True)
class Expr:
    """A formula with its operands: non-negative integers and references to earlier steps."""

    op: Op
    operands: tuple[Operand, ...]

    def render(self, names: Sequence[str]) -> str:
        """Python text, where the value of step i is called `names[i]`."""
        return self.op.template.format(*(names[x.index] if isinstance(x, Ref) else x for x in self.operands))

    def value(self, values: Sequence[Number]) -> Number:
        """The exact value, where step i gave `values[i]`.

        Raises:
            ArithmeticError, TypeError, ValueError: as the rendered Python would on these values.
        """
        return self.op.function(*(values[x.index] if isinstance(x, Ref) else x for x in self.operands))

    def relinked(self, indices: Sequence[int]) -> Expr:
        """The same with each reference to step i turned into one to step `indices[i]`."""
        return Expr(self.op, tuple(Ref(indices[x.index]) if isinstance(x, Ref) else x for x in self.operands))


def _from_math(name: str) -> str:
    return f"from math import {name}"


_FRACTION = "from fractions import Fraction"


def _digit_sum(value: Number, *_: Number) -> int:
    return sum(map(int, str(abs(value))))


ADD = Op("{0} + {1}", operator.add)
SUBTRACT = Op("{0} - {1}", operator.sub)
SUBTRACT_FROM = Op("{1} - {0}", lambda a, b: b - a)
MULTIPLY = Op("{0} * {1}", operator.mul)
FLOOR_DIVIDE = Op("{0} // {1}", operator.floordiv)
MODULUS = Op("{0} % {1}", operator.mod)
SAME = Op("{0}", lambda a, *_: a)
SECOND = Op("{1}", lambda _, b: b)
SQUARE = Op("{0} ** 2", lambda a, *_: a**2)
DOUBLE = Op("{0} * 2", lambda a, *_: a * 2)
HALVE = Op("{0} // 2", lambda a, *_: a // 2)
DIGIT_SUM = Op("sum(map(int, str(abs({0}))))", _digit_sum)
LAST_DIGIT = Op("{0} % 10", lambda a, *_: a % 10)
MULTIPLY_ADD = Op("{0} + {1} * {2}", lambda a, b, c: a + b * c)
ADD_ALL = Op("{0} + {1} + {2}", lambda a, b, c: a + b + c)

REST = Op("{0} - {0} // {1}", lambda a, b: a - a // b)
PERCENT_OFF = Op("{0} * (100 - {1}) // 100", lambda a, b: a * (100 - b) // 100)
PERCENT_ON = Op("{0} * (100 + {1}) // 100", lambda a, b: a * (100 + b) // 100)
PERCENT_OF = Op("{0} * {1} // 100", lambda a, b: a * b // 100)
MEAN = Op("{0} // ({1} + {2})", lambda a, b, c: a // (b + c))

GCD = Op("gcd({0}, {1})", math.gcd, _from_math("gcd"))
LCM = Op("lcm({0}, {1})", math.lcm, _from_math("lcm"))
COMB = Op("comb({0}, {1})", math.comb, _from_math("comb"))
PERM = Op("perm({0}, {1})", math.perm, _from_math("perm"))
ISQRT = Op("isqrt({0})", math.isqrt, _from_math("isqrt"))
TIMES_COMB = Op("{0} * comb({1}, {2})", lambda a, n, k: a * math.comb(n, k), _from_math("comb"))
PLUS_COMB = Op("{0} + comb({1}, {2})", lambda a, n, k: a + math.comb(n, k), _from_math("comb"))
POWER_MODULUS = Op("{0} ** {1} % {2}", lambda a, b, c: a**b % c)
PRODUCT_MODULUS = Op("{0} * {1} % {2}", lambda a, b, c: a * b % c)

DISCRIMINANT = Op("{0} ** 2 - 4 * {1}", lambda s, q: s**2 - 4 * q)
DISCRIMINANT_PLUS = Op("{0} ** 2 + 4 * {1}", lambda s, q: s**2 + 4 * q)
SQUARE_LESS = Op("{0} ** 2 - {1}", lambda s, q: s**2 - q)
SQUARE_LESS_TWICE = Op("{0} ** 2 - 2 * {1}", lambda s, q: s**2 - 2 * q)

SUM_TO = Op("{0} * ({0} + 1) // 2", lambda n: n * (n + 1) // 2)
SUM_BELOW = Op("{0} * ({0} - 1) // 2", lambda n: n * (n - 1) // 2)
LESS_ONE = Op("{0} - 1", lambda n: n - 1)
GEOMETRIC = Op("{0} * {1} ** ({2} - 1)", lambda a, r, n: a * r ** (n - 1))
GEOMETRIC_LATE = Op("{0} * {1} ** {2}", lambda a, r, n: a * r**n)
SERIES = Op("({0} + {1}) * {2} // 2", lambda a, b, n: (a + b) * n // 2)
LAST_TIMES = Op("{1} * {2}", lambda _, b, n: b * n)

TRIANGLE = Op("{0} * {1} // 2", lambda a, b: a * b // 2)
TWICE = Op("2 * {0}", lambda a: 2 * a)
LESS_SQUARE = Op("{0} - {1} ** 2", lambda a, s: a - s**2)
PLUS_SQUARE = Op("{0} + {1} ** 2", lambda a, s: a + s**2)

FRACTION_SUM = Op(
    "Fraction({0}, {1}) + Fraction({2}, {3})", lambda a, b, c, d: Fraction(a, b) + Fraction(c, d), _FRACTION
)
FRACTION_SUM_ACROSS = Op("Fraction({0} + {2}, {1} + {3})", lambda a, b, c, d: Fraction(a + c, b + d), _FRACTION)
FRACTION_PRODUCT = Op(
    "Fraction({0}, {1}) * Fraction({2}, {3})", lambda a, b, c, d: Fraction(a, b) * Fraction(c, d), _FRACTION
)
PLUS_FRACTION = Op("{0} + Fraction({1}, {2})", lambda x, a, b: x + Fraction(a, b), _FRACTION)
LESS_FRACTION = Op("{0} - Fraction({1}, {2})", lambda x, a, b: x - Fraction(a, b), _FRACTION)
TIMES_FRACTION = Op("{0} * Fraction({1}, {2})", lambda x, a, b: x * Fraction(a, b), _FRACTION)
OVER_FRACTION = Op("{0} / Fraction({1}, {2})", lambda x, a, b: x / Fraction(a, b), _FRACTION)
