"""The oracle of the worker process: agreement at sample points, then math-verify. Never runs in our own process.

math-verify (Apache-2.0, Hugging Face) gets what our parser has no reading of: sums, limits, set algebra. Its LaTeX
grammar reads the whole text or refuses it; its other reader, for plain expressions, is sympy's `parse_expr`, which is
an eval: it isn't used, and `disarm` turns it off for all of sympy.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NoReturn

from rstar_cli.grader import numeric
from rstar_cli.grader.exact import BoundsError
from rstar_cli.grader.expression import Expression, Number, parse
from rstar_cli.grader.lexer import UnparsedError

_HUGE = re.compile(
    r"\d{40}|\^\s*\{?\s*-?\d{5}|\^[^\s^=,]{1,40}\^[^\s^=,]{1,40}\^|\d{4}\s*!|!\s*!|\\(?:sum|prod)[^\\]{0,40}\d{6}"
)
"""Long numerals, exponents of five digits, towers, factorials and long series: nothing that sympy should begin with."""


def disarm() -> None:
    """Make sympy refuse all text but numerals, everywhere in this process (`sympify("...")` is an eval of the text)."""
    from sympy import Rational
    from sympy.parsing import sympy_parser

    def numeral(text: object, *_args: object, **_kwargs: object) -> Any:
        if not isinstance(text, str) or not re.fullmatch(r"\d{1,2000}(?:\.\d{0,2000})?|\.\d{1,2000}", text):
            raise ValueError("text is not evaluated here")
        return Rational(text)  # exact, where sympy would take a rounded Float

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise ValueError("text is not evaluated here")

    sympy_parser.parse_expr = numeral
    sympy_parser.eval_expr = refuse


class SymbolicOracle:
    """Decides what the rules of `compare` leave open.

    Attributes:
        stage: who decided the last question: `numeric`, `symbolic` or `bounds`.
    """

    def __init__(self) -> None:
        self.stage = "numeric"

    def equal(self, gold: str, prediction: str, trees: tuple[Expression, Expression] | None) -> bool | None:
        """Whether two single expressions are equal.

        Raises:
            BoundsError: the gold is too large to compute with.
        """
        self.stage = "numeric"
        if trees is not None:
            try:
                agreement = numeric.agree(*trees)
            except BoundsError:
                numeric.agree(trees[0], trees[0])  # raises again if the gold is at fault
                self.stage = "bounds"
                return False
            if agreement is not None:
                return agreement
            if not any(numeric.names_of(tree) or numeric.has_series(tree) for tree in trees):
                return False  # constants that the digits don't tell apart, or that are not defined
        if _HUGE.search(gold):
            raise BoundsError("the gold answer is too large to compute with")
        if _HUGE.search(prediction):
            self.stage = "bounds"
            return False
        self.stage = "symbolic"
        return _math_verify(gold, prediction)

    def value(self, tree: Expression) -> Fraction | None:
        """The value of a real constant to 40 digits; None where it has none, or one too large."""
        try:
            return numeric.real_value(tree)
        except BoundsError:
            return None

    def is_rounding(self, decimal: Number, value: Expression) -> bool:
        """Whether a decimal is what a constant rounds to at that many places, or a double printed in full."""
        exact = self.value(value)
        return exact is not None and numeric.is_rounding(decimal, exact)

    def proportional(self, gold: str, prediction: str, *, positive: bool) -> bool | None:
        """Whether two expressions are one multiple of each other."""
        try:
            return numeric.proportional(parse(gold), parse(prediction), positive=positive)
        except (UnparsedError, BoundsError):
            return False


def _math_verify(gold: str, prediction: str) -> bool:
    from math_verify import verify

    trees = _latex(gold), _latex(prediction)
    return None not in trees and bool(verify(*trees, float_rounding=10, timeout_seconds=None))


def _latex(text: str) -> Any:
    """A sympy object from LaTeX; None if the grammar doesn't know it."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
    from math_verify.grader import should_treat_as_complex

    # units are cut off by our own rules: theirs take single letters (`5c`) for units
    notation = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    try:
        return latex2sympy(
            text,
            is_real=not should_treat_as_complex(text),
            normalization_config=notation,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - its parser raises bare Exception and whatever sympy does
        return None
