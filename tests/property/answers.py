"""Answers built from values, so that what is equal is known without the grader.

An `Answer` holds spellings of one value, `rewritten` draws another notation of one of them. A reader's path: numbers,
expressions, collections and all others, notations, texts of no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Context
from fractions import Fraction

import sympy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rstar_cli.grader import Grader
from rstar_cli.records import Verdict

X, Y = sympy.symbols("x y")
OO = sympy.oo


def patient(examples: int) -> settings:
    """Settings without a deadline: a busy machine is no failure."""
    return settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])


def accepts(grader: Grader, gold: str, prediction: str) -> bool:
    return grader.grade([(gold, prediction)])[0].verdict is Verdict.CORRECT


@dataclass(frozen=True)
class Answer:
    """One value in several spellings.

    Attributes:
        kind: what it is; tells which names and units may stand beside it.
        latex: LaTeX texts; the first one is plain, and another one for another value of the kind.
        printed: texts that programs print or people type, to be left as they are.
        predicted: texts that are no gold: a program prints its set as a list.
    """

    kind: str
    latex: tuple[str, ...]
    printed: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()

    @property
    def golds(self) -> tuple[str, ...]:
        return self.latex + self.printed

    @property
    def spellings(self) -> tuple[str, ...]:
        return self.golds + self.predicted


# --- numbers ----------------------------------------------------------------------------------------------------------


def decimal(value: Fraction, form: str = "f") -> str:
    """All digits of a fraction that terminates; nothing for others."""
    digits = Context(prec=200).divide(value.numerator, value.denominator)
    return format(digits, form) if Fraction(digits) == value else ""


def number(value: Fraction) -> Answer:
    """A rational number in all exact notations."""
    top, bottom = value.numerator, value.denominator
    sign, (whole, rest) = "-" if top < 0 else "", divmod(abs(top), bottom)
    latex = [rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}", rf"\tfrac{{{top}}}{{{bottom}}}"]
    printed = [f"{top}/{bottom}", f"Fraction({top}, {bottom})", f"Rational({top}, {bottom})", f"({top})/({bottom})"]
    if bottom == 1:
        latex.insert(0, str(top))
        printed += [f"{top:+}", f"{top}.0", *(f"{top:,}".replace(",", mark) for mark in (",", "{,}", r"\,", r",\!"))]
    elif decimal(value):
        latex += [decimal(value), f"{decimal(value)}0"]
    if whole and rest:
        latex += [rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"]
    if top and decimal(value):
        mantissa, exponent = decimal(value, "e").split("e")
        latex += [rf"{mantissa} {times} 10^{{{int(exponent)}}}" for times in (r"\times", r"\cdot")]
    return Answer("number", tuple(latex), tuple(printed))


small = st.fractions(min_value=-60, max_value=60, max_denominator=24)
rationals = st.one_of(
    small,
    st.integers(-(10**30), 10**30).map(Fraction),
    st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6),
    st.builds(lambda top, places: Fraction(top, 10**places), st.integers(-(10**9), 10**9), st.integers(1, 12)),
)


def near(value: Fraction) -> st.SearchStrategy[Fraction]:
    """Other numbers that look like it."""
    steps = st.sampled_from([1, -1]).flatmap(lambda n: st.integers(0, 12).map(lambda k: value + Fraction(n, 10**k)))
    changed = [-value, value * 10, value / 10, value / 100, value * 100, value + 1, value - 1, value**2]
    changed += [1 / value, value / 2] if value else []
    changed += [Fraction(int(value)), Fraction(value.numerator), value % 1, Fraction(round(value * 1000), 1000)]
    return st.one_of(steps, st.sampled_from(changed), rationals).filter(lambda other: other != value)


@st.composite
def close_numbers(draw: st.DrawFn) -> tuple[str, ...]:
    """Three spellings of two or three numbers beside each other, with percent and a unit too."""
    value = draw(small)
    beside = map(number, [value, value + Fraction(1, 1000), Fraction(round(value * 100), 100), -value])
    texts = [text for one in beside for text in (*one.spellings, rf"{one.latex[0]}\%", f"{one.latex[0]} cm")]
    return tuple(draw(st.sampled_from(texts)) for _ in range(3))


# --- expressions: sympy objects, and LaTeX as people write it ---------------------------------------------------------


def latex(value: sympy.Basic) -> str:
    return sympy.latex(value, ln_notation=True)


def of_sympy(kind: str, *objects: sympy.Basic) -> Answer:
    """Equal sympy objects, as sympy writes them."""
    texts = [str(each) for each in objects]
    return Answer(kind, tuple(map(latex, objects)), (*texts, *(text.replace("**", "^") for text in texts)))


def surd(value: sympy.Expr) -> Answer:
    r"""`a + b\sqrt{c}` in two terms, in one fraction, and with all under the root."""
    whole, root = value.as_coeff_Add()
    written = of_sympy("surd", value, sympy.together(value))
    return replace(written, latex=(*written.latex, rf"{latex(whole)}+\sqrt{{{latex(root**2)}}}"))


def polynomial(coefficients: Sequence[int]) -> Answer:
    expanded = sympy.Poly(coefficients[::-1], X).as_expr()
    return of_sympy("expression", expanded, sympy.factor(expanded), sympy.horner(expanded))


def above(inner: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    return st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a / (b + 1), inner, inner),
        st.builds(lambda a, n: a**n, inner, st.integers(2, 4)),
        inner.map(lambda a: sympy.sqrt(a + 1)),
        inner.map(sympy.sin),
        inner.map(lambda a: sympy.exp(-a)),
        inner.map(lambda a: sympy.log(a + 2)),
    )


def formulas_above(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = [r"\frac{{{}}}{{{}}}", "({}+{})", r"{} \cdot {}"]
    return st.one_of(
        st.builds(lambda form, a, b: form.format(a, b), st.sampled_from(pairs), inner, inner),
        st.builds(lambda form, a: form.format(a), st.sampled_from([r"\sqrt{{{}}}", r"\sin({})"]), inner),
        st.builds(lambda a, n: f"({a})^{{{n}}}", inner, st.integers(0, 4)),
    )


fractions = small.map(sympy.Rational)
radicands = st.sampled_from([2, 3, 5, 6, 7, 8, 12, 18])
roots = st.builds(
    lambda a, b, c, d: a + b * sympy.sqrt(c) / d, fractions, st.integers(1, 9), radicands, st.integers(1, 12)
)
nonzero = st.integers(-9, 9).filter(bool)
reals = st.one_of(fractions, st.integers(-60, 60).map(sympy.Integer), roots)
coefficients = st.lists(st.integers(-20, 20), min_size=2, max_size=5).filter(lambda c: c[-1] and any(c[:-1]))
symbols = st.sampled_from([X, Y, sympy.pi])
composed = st.recursive(st.one_of(st.integers(1, 12).map(sympy.Integer), symbols), above, max_leaves=5)
"""Expressions in x and y that have real values somewhere."""
names = st.sampled_from(["x", "y", "a_1", r"\alpha", r"\pi", "e"])
formulas = st.recursive(st.one_of(st.integers(0, 99).map(str), names), formulas_above, max_leaves=8)
"""LaTeX that nobody simplified; some of it has no value."""


# --- collections and relations of sympy objects, words ----------------------------------------------------------------


def joined(values: Sequence[sympy.Basic], comma: str = ", ") -> str:
    return comma.join(map(latex, values))


def typed(values: Sequence[sympy.Basic]) -> str:
    """As a program prints them."""
    return ", ".join(map(str, values))


def tuple_of(values: Sequence[sympy.Basic]) -> Answer:
    return Answer("tuple", (f"({joined(values)})", f"({joined(values, ',')})"), (f"({typed(values)})",))


def set_of(values: Sequence[sympy.Basic]) -> Answer:
    """A set, in another order too."""
    order = sorted(values, key=str)
    items = (rf"\{{{joined(values)}\}}", rf"\{{{joined(order, ',')}\}}")
    printed = (f"{{{typed(order)}}}", f"FiniteSet({typed(order)})")
    twice = rf"\{{{joined([*order, values[0]])}\}}"
    return Answer("set", (*items, twice), printed, (f"[{typed(order)}]",))


def list_of(values: Sequence[sympy.Basic]) -> Answer:
    """A bare list of two or more, in another order too."""
    *first, last = order = sorted(values, key=str)
    printed = (rf"{joined(first)} \text{{ and }} {latex(last)}", f"x = {joined(order, ', x = ')}", joined(order, "; "))
    return Answer("list", (joined(values), joined(order)), printed)


def matrix_of(built: sympy.Matrix) -> Answer:
    texts = [sympy.latex(built, mat_str=name, mat_delim="") for name in ("pmatrix", "bmatrix")]
    return Answer("matrix", (texts[0].replace(r"\\", r" \\ "), texts[1].replace(" ", ""), latex(built)), (str(built),))


def in_brackets(one: sympy.Interval) -> str:
    return f"{'(' if one.left_open else '['}{latex(one.start)}, {latex(one.end)}{')' if one.right_open else ']'}"


def as_condition(one: sympy.Interval) -> str:
    left = "" if one.start == -OO else latex(one.start) + (" < " if one.left_open else r" \le ")
    right = "" if one.end == OO else (" < " if one.right_open else r" \leq ") + latex(one.end)
    return f"{left}x{right}"


def interval_of(one: sympy.Interval) -> Answer:
    text = in_brackets(one)
    return Answer("interval", (text, text.replace(", ", ","), as_condition(one), latex(one)), (str(one),))


def union_of(parts: Sequence[sympy.Interval]) -> Answer:
    built = sympy.Union(*parts)
    texts = [r" \cup ".join(map(in_brackets, order)) for order in (parts, parts[::-1])]
    conditions = r" \text{ or } ".join(map(as_condition, parts))
    return Answer("union", (*texts, latex(built), conditions), (str(built),))


def distinct(least: int = 2, most: int = 5) -> st.SearchStrategy[list[sympy.Expr]]:
    return st.lists(reals, min_size=least, max_size=most, unique=True)


flag = st.booleans()
finite_intervals = st.builds(lambda ends, *is_open: sympy.Interval(*sorted(ends), *is_open), distinct(2, 2), flag, flag)
intervals = st.one_of(
    finite_intervals,
    finite_intervals.map(lambda one: sympy.Interval(-OO, one.end, True, one.right_open)),
    finite_intervals.map(lambda one: sympy.Interval(one.start, OO, one.left_open, True)),
)


@st.composite
def unions(draw: st.DrawFn) -> list[sympy.Interval]:
    """Two intervals with a gap between."""
    low, second, third, high = sorted(draw(distinct(4, 4)))
    first = sympy.Interval(draw(st.sampled_from([low, -OO])), second, draw(flag), draw(flag))
    return [first, sympy.Interval(third, draw(st.sampled_from([high, OO])), draw(flag), draw(flag))]


widths = st.integers(2, 3)
matrices = widths.flatmap(lambda n: st.lists(st.tuples(*[reals] * n), min_size=1, max_size=3)).map(sympy.Matrix)


def equation(slope: int, rest: sympy.Expr) -> Answer:
    """A line, solved for y."""
    built = sympy.Eq(Y, slope * X + rest)
    right = latex(built.rhs)
    return Answer("equation", (latex(built), f"{right} = y", f"y={right}"), (str(built),))


def inequality(low: sympy.Expr, is_strict: bool) -> Answer:
    built = low < X if is_strict else low <= X
    sign, flipped, bracket, printed = (">", "<", "(", ">") if is_strict else (r"\ge", r"\le", "[", ">=")
    text = latex(low)
    texts = (rf"x {sign} {text}", rf"{text} {flipped} x", rf"{bracket}{text}, \infty)", latex(built))
    return Answer("inequality", texts, (str(built), f"x {printed} {low}"))


def phrase(words: str) -> Answer:
    return Answer("text", (words,), (rf"\text{{{words}}}", rf"\mathrm{{{words}}}", words.upper(), words.lower()))


def choice(letter: str) -> Answer:
    forms = ("({})", r"\text{{{}}}", r"\textbf{{({})}}", r"\mathrm{{({})}}", "{}.", "{})")
    return Answer("choice", (letter,), tuple(form.format(letter) for form in forms))


WORDS = ["Tuesday", "ellipse", "increasing", "east of town", "red and green", "Evelyn", "no solution"]
trees = composed.map(lambda tree: of_sympy("expression", tree))
written = formulas.map(lambda text: Answer("formula", (text,)))
singles = st.one_of(rationals.map(number), roots.map(surd), coefficients.map(polynomial), trees, written)
tuples = st.one_of(distinct(), st.lists(st.one_of(reals, composed), min_size=2, max_size=4)).map(tuple_of)
sets, lists = distinct().map(set_of), distinct().map(list_of)
some_intervals = intervals.map(interval_of)
collections = st.one_of(tuples, sets, lists, matrices.map(matrix_of), some_intervals, unions().map(union_of))
relations = st.one_of(st.builds(equation, nonzero, fractions), st.builds(inequality, reals, flag))
worded = st.one_of(st.sampled_from(WORDS).map(phrase), st.sampled_from("ABCDEF").map(choice))
answers = st.one_of(singles, collections, relations, worded)


# --- notations --------------------------------------------------------------------------------------------------------

SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
SYMBOLS = {
    r"\pi": "π", r"\infty": "∞", r"\cup": "∪", r"\leq": "≤", r"\le ": "≤ ", r"\geq": "≥", r"\ge ": "≥ ",
    r"\times": "×", r"\cdot": "·", "-": "−",
}  # fmt: skip
NAMES = {
    "number": ["x = ", "n=", "a_1 = ", r"\theta = ", r"\text{Area} = ", "f(2) = ", r"\boldsymbol{x} = "],
    "surd": ["x = ", "n=", r"\angle A = ", "AB = "],
    "expression": ["f(x) = ", "f(x)="],
    "tuple": ["P = ", r"\vec{v} = "],
    "set": ["x = ", "S = ", r"x \in "],
    "list": ["x = "],
    "matrix": ["A = ", r"\mathbf{M} = "],
    "interval": [r"x \in ", "D = ", "D="],
    "union": [r"x \in ", "D = ", "D="],
}
UNITS = [r"\text{ cm}", r"\ \text{cm}^2", " cm", r"\,\mathrm{kg}", r"\text{ square units}", r" \text{ apples}"]
UNITS += [r"\%", "°", " dollars"]
IS_SET = re.compile(r"\[|\]|∞|∪|\\infty|\\cup")
"""Not yet read as an interval beside a condition: `D = (0, 1)` is a point for the gold `0 < x < 1`."""
RELATION = re.compile(r"=|<|>|\\le|\\ge|≤|≥")


def unicode_form(text: str) -> str:
    text = re.sub(r"\^\{(-?\d+)\}|\^(\d)", lambda m: (m[1] or m[2]).translate(SUPERSCRIPTS), text)
    text = re.sub(r"\\sqrt\{(\d+)\}", r"√\1 ", text)
    for command, symbol in SYMBOLS.items():
        text = text.replace(command, symbol)
    return text


def sized(text: str) -> str:
    if r"\left" in text:
        return text.replace(r"\left", "").replace(r"\right", "")
    return re.sub(r"(\\\}|[)\]])", r"\\right\1", re.sub(r"(\\\{|[(\[])", r"\\left\1", text))


NOTATIONS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: re.sub(r"([-+=<,])", r" \1\\, ", text),
    sized,
    unicode_form,
]
WRAPPERS = ["{}", "{}", " {} ", "{}.", "${}$", "$${}$$", r"\({}\)", r"\boxed{{{}}}", r"$\boxed{{{}}}$."]
TOLD = [r"So the answer is \boxed{{{}}}.", "The final answer is ${}$."]


@st.composite
def rewritten(draw: st.DrawFn, answer: Answer) -> str:
    """A spelling of an answer in some other notation."""
    text = draw(st.sampled_from(answer.spellings))
    if text in answer.latex:
        text = draw(st.sampled_from(NOTATIONS))(text)
        names = [name for name in NAMES.get(answer.kind, []) if name[0] != "D" or IS_SET.search(text)]
        if names and not RELATION.search(text) and draw(flag):
            text = draw(st.sampled_from(names)) + text
        if answer.kind in ("number", "surd") and draw(flag):
            text += draw(st.sampled_from(UNITS))
    return draw(st.sampled_from(WRAPPERS + TOLD)).format(text)


# --- texts of no meaning ----------------------------------------------------------------------------------------------

PIECES = (
    r"\frac \dfrac{ \sqrt \sqrt[3]{ { } ( ) [ ] ^ _ ^{ _{ + - * ** / = == < <= > \le \ge \ne \cup \cap \setminus \in"
    r" \pm \mp \cdot \times \sin \ln \log_2 \binom{ \text{ \mathrm{ \boxed{ \left( \right) \left[ \right. \left\{"
    r" \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} & \\ , ; : . \{ \} \langle \rangle | \mid ! % \% $ $$ \$"
    r" \circ ^\circ \infty \pi \mathbb{R} \emptyset \sum_{k=1}^{9} \prod \int \int_0^1 \lim \lim_{x\to0} \vec"
    r" \overline{ \ldots \( \) \[ ... ' ` ~ # #### and or if x y n e i I E A B 0 1 2 3 10 99 0.5 .5 1e9 1e999 9^9^9 !!"
    " <answer> </answer> <think> </think> π √ ∞ ² ³ ⁻¹ ½ − × ≤ ∪ ° 答案 ∅ sqrt( Interval( Union( FiniteSet( Matrix([["
    " Eq( Fraction( Sum( Piecewise( {x: frozenset({ Answer: answer is therefore cm am mod _{10} hundred half"
)
some_piece = st.sampled_from([*PIECES.split(" "), " ", '"', "\n", "\0", "\u200b", "\ud800"])
pieces = st.lists(some_piece, max_size=60).map("".join).map(lambda text: text[:200])


@st.composite
def cuts(draw: st.DrawFn) -> str:
    """A piece of an answer, perhaps with some noise behind."""
    text = draw(rewritten(draw(answers)))
    begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    return draw(st.sampled_from([text[begin:], text[:end], text[begin:end] + draw(some_piece)]))


anything = st.one_of(pieces, cuts(), st.text(max_size=40))
