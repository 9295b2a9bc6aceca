r"""Answers as expression trees: a small parser for LaTeX and ASCII mathematics that runs nothing.

The parser takes a normal form (see `normalize`) and gives a tree only if it understood every character of it. What it
doesn't know (integrals, limits, words) it refuses, rather than guess.

Conventions, where notation is ambiguous: `2\frac{1}{2}` and `2 1/2` are mixed numbers, `a/bc` is (a/b)c, `\sin 2x` is
sin(2x), `e` and `i` (also `I`) are the constants, `\log` without a base is the natural logarithm, `x10` is x_10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rstar_cli.grader.lexer import ASCII_ONLY, FUNCTIONS, GREEK, TRIGONOMETRIC, Token, UnparsedError, tokenize

MAX_DIGITS = 2_000
"""Digits, or decimal exponent, of a number literal."""


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, exactly; if it was a decimal, how many significant digits and decimal places were written (else 0)."""

    value: Fraction
    digits: int = 0
    places: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A variable or constant, with its subscript: `x`, `x_1`, `\omega_L'`, `pi`, `e`, `i`."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation (`add`, `mul`, `div`, `pow`, `neg`, `factorial`, ...) or function (`sin`, ...) and its arguments."""

    name: str
    args: tuple[Expression, ...]


Expression = Number | Symbol | Call

_CONSTANTS = {"pi": "pi", "infty": "infty", "infinity": "infty", "oo": "infty", "inf": "infty", "imath": "i", "I": "i"}
_SYMBOL_COMMANDS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell pi infty imath"
)
_ACCENTS = "vec hat bar overline tilde dot ddot widehat overrightarrow mathbb mathcal mathfrak"
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_DERIVATIVE = re.compile(
    r"\\frac\{d\^?\d?[a-z]?\}\{d[a-z](?:\^\{?\d\}?)?\}|(?<![a-zA-Z])d\^?\d?[a-z]/d[a-z](?![a-zA-Z])"
)
_APPLIED = re.compile(r"('*)(\^\{-1\}|\^\{\(\d\)\}|)\(")
_EVENT = re.compile(r"()()\((?=[A-Z\d])")
_AT_NUMBER = re.compile(r"('*)()\(-?\d+\)(?![\^!])")
_TIMES = ("*", r"\times", r"\cdot")


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """Parse a normal form.

    Raises:
        UnparsedError: some part of the text has no place in an expression.
    """
    if _DERIVATIVE.search(text):
        raise UnparsedError("a derivative")
    parser = _Parser(text)
    try:
        tree = parser.sum()
    except RecursionError as error:  # pragma: no cover - nesting is bounded before
        raise UnparsedError("nested too deeply") from error
    if parser.peek is not None:
        raise UnparsedError(f"did not expect {parser.peek.text!r}")
    return tree


class _Parser:
    """Recursive descent; each method reads one rule of the grammar from `at` on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.at = 0
        self.bars = 0

    @property
    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def looking_at(self, *texts: str) -> bool:
        return self.peek is not None and self.peek.text in texts

    def take(self, *texts: str) -> Token:
        token = self.peek
        if token is None or (texts and token.text not in texts):
            raise UnparsedError(f"expected {' or '.join(texts) or 'more'}, not {token.text if token else 'the end'}")
        self.at += 1
        return token

    def sum(self) -> Expression:
        terms = [self.term()]
        while self.looking_at("+", "-"):
            minus = self.take().text == "-"
            term = self.term()
            terms.append(Call("neg", (term,)) if minus else term)
        return terms[0] if len(terms) == 1 else Call("add", tuple(terms))

    def term(self) -> Expression:
        left = self.signed()
        while self.peek is not None:
            if self.looking_at(*_TIMES):
                self.take()
                left = Call("mul", (left, self.signed()))
            elif self.looking_at("/"):
                self.take()
                left = Call("div", (left, self.signed()))
            elif self.starts_factor():
                left = Call("mul", (left, self.power()))
            else:
                break
        return left

    def signed(self) -> Expression:
        if self.looking_at("-"):
            self.take()
            return Call("neg", (self.signed(),))
        if self.looking_at("+"):
            self.take()
            return self.signed()
        return self.power()

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign of multiplication."""
        token = self.peek
        if token is None:
            return False
        if token.kind == "number":  # `2^6 3^5` is a product, `12 34` is not
            before = self.tokens[self.at - 2].text if self.at >= 2 else ""
            return (token.spaced and before == "^") or self.tokens[self.at - 1].text in (")", "}", "]")
        if token.text == "|":
            return not self.bars
        if token.text in ("(", "[", "{"):
            return True
        return token.kind in ("name", "command") and token.text not in (*_CLOSING.values(), *_TIMES)

    def power(self) -> Expression:
        base = self.postfix(self.primary())
        if not self.looking_at("^"):
            return base
        self.take()
        if self.looking_at(r"\circ"):
            self.take()
            return self.postfix(Call("mul", (base, Call("div", (Symbol("pi"), Number(Fraction(180)))))))
        return self.postfix(Call("pow", (base, self.exponent())))

    def exponent(self) -> Expression:
        if self.looking_at("-", "+"):
            minus = self.take().text == "-"
            signed = self.exponent()
            return Call("neg", (signed,)) if minus else signed
        is_number = self.peek is not None and self.peek.kind == "number"  # `x^2\frac{1}{3}`: no mixed number
        inner = _literal(self.take().text) if is_number else self.primary()
        if self.looking_at("^"):
            self.take()
            return Call("pow", (inner, self.exponent()))
        return inner

    def postfix(self, inner: Expression) -> Expression:
        while self.looking_at("!"):
            self.take()
            double = self.looking_at("!") and bool(self.take())
            inner = Call("factorial2" if double else "factorial", (inner,))
        return inner

    def primary(self) -> Expression:
        token = self.take()
        if token.kind == "number":
            return self.mixed(_literal(token.text))
        if token.kind == "repeating":
            return _repeating(token.text)
        if token.kind == "name":
            return self.name(token.text)
        if token.text in _CLOSING:
            inner = self.sum()
            self.take(_CLOSING[token.text])
            rounding = {r"\lfloor": "floor", r"\lceil": "ceil"}.get(token.text)
            return Call(rounding, (inner,)) if rounding else inner
        if token.text in ("|", r"\|"):
            self.bars += 1
            inner = self.sum()
            self.bars -= 1
            self.take(token.text)
            return Call("abs", (inner,))
        if token.kind == "command":
            return self.command(token.text[1:])
        raise UnparsedError(f"did not expect {token.text!r}")

    def mixed(self, whole: Number) -> Expression:
        """A number, with the proper fraction that may follow it."""
        if whole.digits or self.peek is None:
            return whole
        rest = self.text[self.peek.start :]
        match = re.match(r"\\frac(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))(?![\d^!])", rest)
        if not match and self.peek.spaced:
            match = re.match(r"(\d+)()/(\d+)()(?![\d^!.])", rest)
        if not match:
            return whole
        over, under = int(match[1] or match[2]), int(match[3] or match[4])
        if not 0 < over < under:
            return whole
        end = self.peek.start + match.end()
        while self.peek is not None and self.peek.start < end:
            self.at += 1
        return Number(whole.value + Fraction(over, under))

    def argument(self) -> Expression:
        r"""One argument of a command: a group, or what a single token means (`\frac12` is 1/2)."""
        if self.looking_at("{"):
            return self.primary()
        token = self.take()
        if token.kind == "number" and token.text.isdigit():
            if len(token.text) > 1:  # the command takes one digit, the rest comes after it
                rest = Token("number", token.text[1:], token.start + 1, False)
                self.at -= 1
                self.tokens[self.at : self.at + 1] = [rest]
            return Number(Fraction(int(token.text[0])))
        if token.kind == "name" and len(token.text) == 1:
            return self.name(token.text)
        if token.kind == "command":
            return self.command(token.text[1:])
        raise UnparsedError(f"did not expect {token.text!r}")

    def command(self, name: str) -> Expression:
        if name == "frac":
            over, under = self.argument(), self.argument()
            if over == Symbol("d") and isinstance(under, Call) and under.args[0] == over:
                raise UnparsedError("a derivative")
            return Call("div", (over, under))
        if name == "binom":
            return Call("binom", (self.argument(), self.argument()))
        if name == "sqrt":
            return self.root()
        if name in ("sum", "prod"):
            return self.series(name)
        if name in FUNCTIONS:
            return self.function(name)
        if name == "Gamma" and self.looking_at("("):
            return Call("gamma", (self.primary(),))
        if name in _SYMBOL_COMMANDS.split():
            return self.symbol(_CONSTANTS.get(name, "\\" + name))
        if name in _ACCENTS.split():
            return self.symbol(f"\\{name}{{{self.raw_group()}}}")
        raise UnparsedError(f"no meaning for \\{name}")

    def series(self, name: str) -> Expression:
        r"""`\sum_{k=1}^{n} body`: the body is the product that follows."""
        self.take("_")
        self.take("{")
        index = self.primary()
        if not isinstance(index, Symbol):
            raise UnparsedError("a series without an index")
        self.take("=")
        first = self.sum()
        self.take("}")
        self.take("^")
        last = self.argument()
        return Call(name, (self.term(), index, first, last))

    def root(self) -> Expression:
        index: Expression = Number(Fraction(2))
        if self.looking_at("["):
            self.take()
            index = self.sum()
            self.take("]")
        inner = self.primary() if self.looking_at("(") else self.argument()
        return Call("root", (inner, index))

    def name(self, name: str) -> Expression:
        if name in FUNCTIONS:
            return self.function(name)
        if name in ASCII_ONLY:
            self.take("(")
            inner = self.sum()
            self.take(")")
            index = {"sqrt": 2, "cbrt": 3}.get(name)
            return Call("root", (inner, Number(Fraction(index)))) if index else Call(name, (inner,))
        if len(name) == 1 and (called := self.unknown_function(name)):
            return called
        return self.symbol("\\" + name if name in GREEK else _CONSTANTS.get(name, name))

    def unknown_function(self, name: str) -> Expression | None:
        """A function that nothing is known of, not a product: `f(x)`, `g''(x)`, `h^{-1}(x)`, `y(0)`, `P(A)`."""
        rest = self.text[self.peek.start :] if self.peek is not None else ""
        match = (_APPLIED if name in "fghFG" else _EVENT if name == "P" else _AT_NUMBER).match(rest)
        if match is None or self.peek is None:
            return None
        end = self.peek.start + rest.index("(") + 1
        while self.peek is not None and self.peek.start < end:
            self.at += 1
        inner = self.sum()
        self.take(")")
        return Call(f"{name}{match[1]}{match[2]}(", (inner,))

    def symbol(self, name: str) -> Symbol:
        token = self.peek
        subscript = ""
        if token is not None and token.kind == "number" and not token.spaced and name.isalpha() and len(name) == 1:
            subscript = self.take().text
        elif self.looking_at("_"):
            self.take()
            subscript = self.raw_group()
        primes = 0
        while self.looking_at("'"):
            self.take()
            primes += 1
        return Symbol(name + (f"_{subscript}" if subscript else "") + "'" * primes)

    def raw_group(self) -> str:
        """The text of a group or single token, unread."""
        if not self.looking_at("{"):
            return self.take().text
        depth, start = 0, self.at
        while True:
            depth += self.looking_at("{") - self.looking_at("}")
            self.take()
            if not depth:
                return "".join(token.text for token in self.tokens[start + 1 : self.at - 1])

    def function(self, spelling: str) -> Expression:
        name = FUNCTIONS[spelling]
        base: Expression | None = None
        power: Expression | None = None
        while self.looking_at("_", "^"):
            if self.take().text == "_":
                base = self.argument()
            else:
                power = self.exponent()
        if power == Call("neg", (Number(Fraction(1)),)) and name in TRIGONOMETRIC:
            name, power = f"a{name}", None
        if name in ("gcd", "lcm", "max", "min"):
            raise UnparsedError(f"no meaning for {name}")
        inner = self.primary() if self.looking_at("(", "{", "[", "|") else self.operand()
        if name in ("log", "lg") and (base is not None or name == "lg"):
            call = Call("log", (inner, base or Number(Fraction(10))))
        else:
            call = Call("ln" if name == "log" else name, (inner,))
        return Call("pow", (call, power)) if power is not None else call

    def operand(self) -> Expression:
        """What a function without brackets applies to: the product up to the next function, bracket or operator."""
        inner = self.signed()
        while (token := self.peek) is not None and self.starts_factor():
            if token.text.lstrip("\\") in FUNCTIONS or token.text in ("(", "[", "{", "|"):
                break
            inner = Call("mul", (inner, self.power()))
        return inner


def _repeating(text: str) -> Number:
    r"""A repeating decimal: `0.1\overline{6}`, `0.\dot{1}2\dot{3}`, `0.(3)`.

    Raises:
        UnparsedError: more than `MAX_DIGITS` digits.
    """
    before, _, period = re.sub(r"\\overline\s?|\\bar\s?|\\dot\s?|\(", "|", text, count=1).partition("|")
    period = "".join(re.findall(r"\d", period))
    if len(text) > MAX_DIGITS:
        raise UnparsedError("number too large")
    whole, _, decimals = before.partition(".")
    repeated = Fraction(int(period), 10 ** len(period) - 1) / 10 ** len(decimals)
    return Number(Fraction(int((whole + decimals) or "0"), 10 ** len(decimals)) + repeated)


def _literal(text: str) -> Number:
    """A number literal, exactly.

    Raises:
        UnparsedError: more than `MAX_DIGITS` digits.
    """
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or len(exponent) > 6 or abs(int(exponent or 0)) > MAX_DIGITS:
        raise UnparsedError("number too large")
    digits = len(mantissa.replace(".", "").lstrip("0")) if "." in mantissa or exponent else 0
    whole, _, decimals = mantissa.partition(".")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals)) * Fraction(10) ** int(exponent or 0)
    return Number(value, digits, len(decimals) - int(exponent or 0) if digits else 0)
