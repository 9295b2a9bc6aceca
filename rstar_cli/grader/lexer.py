r"""Tokens of an expression: numbers, commands, names, operators.

A run of letters is cut into function names and single letters (`xsin` is x sin), unless it is a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class UnparsedError(ValueError):
    """The text isn't an expression that the parser knows."""


TRIGONOMETRIC = ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch"]
_INVERSE = {f"{arc}{name}": f"a{name}" for arc in ("arc", "ar", "a") for name in TRIGONOMETRIC}
FUNCTIONS = {name: name for name in [*TRIGONOMETRIC, "exp", "ln", "log", "lg", "gcd", "lcm", "max", "min"]} | _INVERSE
"""Spelling to name of the functions that are written before their argument."""
ASCII_ONLY = {"sqrt": "sqrt", "cbrt": "cbrt", "abs": "abs", "floor": "floor", "ceil": "ceil", "factorial": "factorial"}
"""Functions that plain text alone writes, always with brackets."""
_SPELLED = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Sigma Phi Psi Omega"
)
GREEK = frozenset(_SPELLED.split())
"""Letters that plain text spells out. Those of two letters are not told from a product."""
_NAMES = sorted({*FUNCTIONS, *ASCII_ONLY, *GREEK, "pi", "infty", "infinity", "oo", "inf"}, key=len, reverse=True)
_WORDS = "no on yes odd even all none and or not is if to of the true as in at by for"
_SCIENTIFIC = re.compile(r"\d+(?:\.\d*)?[eE][-+]?\d+")
"""Alone it is no product with the number e."""
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<repeating>\d*\.\d*(?:\\(?:overline|bar)\s?(?:\{\d+\}|\d)|\\dot\s?\{?\d\}?(?:\d*\\dot\s?\{?\d\}?)?)|\d+\.\(\d+\))
    |(?P<number>\d+\.\d*[eE][-+]?\d+(?!\d)|\d+[eE][-+]\d\d+|\d+[eE]\d\d+|\d+\.\d+|\d+\.(?!\d)|\.\d+|\d+)
    |(?P<command>\\[a-zA-Z]+|\\[{}|])
    |(?P<name>[a-zA-Z]+)
    |(?P<operator>[-+*/^!_(){}\[\]|'=])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its kind (the group of `_TOKEN`), text and place, and whether a blank stands before it."""

    kind: str
    text: str
    start: int
    spaced: bool


def tokenize(text: str) -> list[Token]:
    """Cut a normal form into tokens.

    Raises:
        UnparsedError: a character that has no place in an expression, or a word.
    """
    if _SCIENTIFIC.fullmatch(text):
        return [Token("number", text, 0, False)]
    tokens: list[Token] = []
    at, spaced = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UnparsedError(f"no meaning for {text[at]!r}")
        kind = str(match.lastgroup)
        if kind == "name":
            for i, name in enumerate(_split_name(match[0])):
                tokens.append(Token("name", name, at, spaced and not i))
                at += len(name)
        elif kind != "space":
            tokens.append(Token(kind, match[0], at, spaced))
        spaced, at = kind == "space", match.end()
    return tokens


def _split_name(run: str) -> list[str]:
    """Cut a run of letters into function names and single letters; a word isn't a product of letters."""
    if run.lower() in _WORDS.split():
        raise UnparsedError(f"{run!r} is a word")
    names: list[str] = []
    at = 0
    while at < len(run):
        name = next((n for n in _NAMES if run.startswith(n, at)), run[at])
        names.append(name)
        at += len(name)
    if sum(len(name) == 1 for name in names) > 3:
        raise UnparsedError(f"{run!r} is a word")
    return names
