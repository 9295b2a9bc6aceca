"""Agreement of two expressions at fixed points, to many digits. Runs in the worker process only.

Two constants are equal if they agree to 40 digits, two expressions in variables if they agree at every sample point
where both are real (at least three such points; where there is none, at points where they are complex). The points are
drawn from the names of the variables, so the same pair always gets the same answer. A variable that a sum or product
runs up to is drawn from the positive integers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rstar_cli.grader.exact import BoundsError
from rstar_cli.grader.expression import Call, Expression, Number, Symbol

_DIGITS = 60
_AGREE = 40
_SIZES = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 40, 40, 2000, 2000, 0, 0)
"""The scale of the variables, point by point: an absolute value or a step may turn far from 0. 0 is for integers."""
_ENOUGH = 3
_CONSTANTS = frozenset({"pi", "e", "i"})
_COMBINATORIAL = {"factorial": "factorial", "factorial2": "fac2", "binom": "binomial", "gamma": "gamma"}
_SERIES = ("sum", "prod")
_MAX_EXPONENT = 10.0**12
_MAX_TERMS = 2_000
"""Terms of the sums and products of an expression; longer ones are not for counting."""


def agree(gold: Expression, prediction: Expression) -> bool | None:
    """Whether two expressions have the same value everywhere; None where that can't be told.

    Raises:
        BoundsError: a value is too large to compute.
    """
    names = sorted(names_of(gold) | names_of(prediction))
    if "infty" in names:  # nothing is computed with it, but infinite series
        if has_series(gold) or has_series(prediction):
            return _limits_agree(gold, prediction) if names == ["infty"] else None
        return _sign_of_infinity(gold) == _sign_of_infinity(prediction) != 0
    if not names:
        return _constants_agree(gold, prediction)
    outcomes = [_compare(pair) for pair in _values((gold, prediction), names)]
    real = [same for is_real, same in outcomes if is_real]
    mixed = [same for is_real, same in outcomes if not is_real]
    if not all(real):
        return False
    if len(real) >= _ENOUGH:
        return True
    if real or len(mixed) < _ENOUGH:
        return None
    return all(mixed)


def proportional(gold: Expression, prediction: Expression, *, positive: bool) -> bool | None:
    """Whether gold = c * prediction for one constant c (above 0 if `positive`): the same equation or inequality.

    Raises:
        BoundsError: a value is too large to compute.
    """
    names = sorted(names_of(gold) | names_of(prediction))
    if not names:
        return None
    ratios = []
    for g, p in _values((gold, prediction), names):
        if abs(p) < 1e-20 or abs(g) < 1e-20:
            if abs(p - g) < 1e-20:
                continue
            return False
        ratios.append(g / p)
    if len(ratios) < _ENOUGH:
        return None
    first = ratios[0]
    if positive and (abs(first.imag) > 1e-20 or first.real <= 0):
        return False
    return all(abs(ratio - first) <= abs(first) * 10.0**-_AGREE for ratio in ratios)


def real_value(tree: Expression) -> Fraction | None:
    """The value of a constant to 40 digits; None where it has none or isn't real.

    Raises:
        BoundsError: a value is too large to compute.
    """
    from mpmath import mp

    try:
        with mp.workdps(_DIGITS):
            value = mp.mpmathify(_evaluate(tree, {}))
            if abs(value.imag) > mp.mpf(10) ** -_AGREE:
                return None
            return Fraction(int(mp.nint(value.real * 10**_AGREE)), 10**_AGREE)
    except (ZeroDivisionError, ValueError, KeyError):
        return None


def names_of(tree: Expression) -> set[str]:
    """The variables of an expression."""
    if isinstance(tree, Symbol):
        return set() if tree.name in _CONSTANTS else {tree.name}
    if not isinstance(tree, Call):
        return set()
    names: set[str] = set().union(*map(names_of, tree.args))
    return names - {str(getattr(tree.args[1], "name", ""))} if tree.name in _SERIES else names


def _limits_agree(gold: Expression, prediction: Expression) -> bool | None:
    """Whether constants with infinite series agree to 25 digits; None where they don't, for convergence may be slow."""
    from mpmath import mp

    try:
        with mp.workdps(_DIGITS):
            g, p = _evaluate(gold, {}), _evaluate(prediction, {})
            return bool(abs(g - p) <= max(abs(g), abs(p)) * mp.mpf(10) ** -25) or None
    except (ZeroDivisionError, ValueError, KeyError, BoundsError, mp.NoConvergence):
        return None


def _sign_of_infinity(tree: Expression) -> int:
    """1 or -1 for infinity with a sign, 0 for all else."""
    if isinstance(tree, Call) and tree.name == "neg":
        return -_sign_of_infinity(tree.args[0])
    return int(tree == Symbol("infty"))


def _counts(tree: Expression) -> set[str]:
    """The variables in the limits of sums and products."""
    if not isinstance(tree, Call):
        return set()
    limits = names_of(tree.args[2]) | names_of(tree.args[3]) if tree.name in _SERIES else set()
    return limits.union(*map(_counts, tree.args))


def _constants_agree(gold: Expression, prediction: Expression) -> bool | None:
    from mpmath import mp

    try:
        with mp.workdps(_DIGITS):
            g, p = _evaluate(gold, {}), _evaluate(prediction, {})
            difference, scale = abs(g - p), max(abs(g), abs(p))
        if not difference:
            return scale < 10.0**_AGREE or None
        if scale > mp.mpf(10) ** -(_DIGITS // 2):
            same = difference <= scale * mp.mpf(10) ** -_AGREE
            if same and scale >= 10.0**_AGREE:
                return None  # integers this large could differ in the digits beyond
            return bool(same)
        with mp.workdps(3 * _DIGITS):  # tiny: zero, if it shrinks with the precision
            finer = abs(_evaluate(gold, {}) - _evaluate(prediction, {}))
        return bool(finer <= difference * mp.mpf(10) ** -_AGREE)
    except (ZeroDivisionError, ValueError):
        return None


def is_rounding(decimal: Number, value: Fraction) -> bool:
    """Whether a decimal is a value, rounded half up or down at the decimal's last place, or to a binary double.

    Programs print `0.8660254037844386` for half the root of 3, and the last digits of such a double are noise.
    """
    error = abs(value - decimal.value)
    if 15 <= decimal.digits <= 17 and error <= abs(value) * Fraction(1, 10**14):
        return True
    return error <= Fraction(1, 2 * 10**decimal.places)


def _values(trees: tuple[Expression, Expression], names: list[str]) -> Iterator[tuple[Any, Any]]:
    """Values of both at the sample points where both are defined: positive points first, then of either sign."""
    from mpmath import mp

    counts = _counts(trees[0]) | _counts(trees[1])
    too_large: BoundsError | None = None
    known = False
    for point, scale in enumerate(_SIZES):
        with mp.workdps(_DIGITS):
            at = {}
            for name in names:
                draw = random.Random(f"{point}:{name}")
                if name in counts:
                    at[name] = mp.mpf(draw.randint(1, 12))
                    continue
                size = mp.mpf(draw.randint(10**18, 3 * 10**18)) / 10**18 - mp.mpf("0.6")
                size = size * scale if scale else mp.mpf(draw.randint(2, 9))
                at[name] = -size if point >= 5 and draw.random() < 0.6 else size
            try:
                pair = _evaluate(trees[0], at), _evaluate(trees[1], at)
            except (ZeroDivisionError, ValueError):
                continue  # undefined there
            except BoundsError as error:
                too_large = error
                continue
            known = True
            yield pair
    if too_large is not None and not known:
        raise too_large


def _compare(pair: tuple[Any, Any]) -> tuple[bool, bool]:
    from mpmath import mp

    g, p = (mp.mpmathify(value) for value in pair)
    scale = max(abs(g), abs(p))
    tiny = mp.mpf(10) ** -_AGREE
    is_real = all(abs(value.imag) <= tiny * max(1, abs(value)) for value in (g, p))
    return is_real, bool(abs(g - p) <= tiny * max(scale, mp.mpf(10) ** -15))


def _evaluate(tree: Expression, at: dict[str, Any]) -> Any:  # mpmath has no types
    from mpmath import mp

    if isinstance(tree, Number):
        return mp.mpf(tree.value.numerator) / tree.value.denominator
    if isinstance(tree, Symbol):
        if tree.name in at:
            return at[tree.name]
        return {"pi": +mp.pi, "e": mp.e + 0, "i": mp.mpc(0, 1)}[tree.name]
    if tree.name in _SERIES:
        return _series(tree, at)
    args = [_evaluate(arg, at) for arg in tree.args]
    value = _apply(mp, tree.name, args)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    return value


def _series(tree: Call, at: dict[str, Any]) -> Any:
    """A sum or product, term by term."""
    from mpmath import mp

    body, index, *limits = tree.args
    if limits[1] == Symbol("infty") and isinstance(index, Symbol):
        infinite = mp.nsum if tree.name == "sum" else mp.nprod
        start = _evaluate(limits[0], at)
        return infinite(lambda k: _evaluate(body, {**at, index.name: k}), [start, mp.inf])
    if any("infty" in names_of(limit) for limit in limits):
        raise ValueError("an infinite series")
    first, last = (_evaluate(limit, at) for limit in limits)
    if not (isinstance(index, Symbol) and mp.isint(first) and mp.isint(last)) or last - first > _MAX_TERMS:
        raise ValueError("not a series of a few terms")
    if has_series(body) and last - first > _MAX_TERMS**0.5:
        raise ValueError("not a series of a few terms")
    value = mp.mpf(0 if tree.name == "sum" else 1)
    for k in range(int(first), int(last) + 1):
        term = _evaluate(body, {**at, index.name: mp.mpf(k)})
        value = value + term if tree.name == "sum" else value * term
    return value


def has_series(tree: Expression) -> bool:
    """Whether an expression holds a sum or product over an index."""
    return isinstance(tree, Call) and (tree.name in _SERIES or any(map(has_series, tree.args)))


def _apply(mp: Any, name: str, args: list[Any]) -> Any:
    x = args[0]
    if name == "add":
        return mp.fsum(args)
    if name == "mul":
        return x * args[1]
    if name == "div":
        return x / args[1]
    if name == "neg":
        return -x
    if name == "pow":
        return _power(mp, x, args[1])
    if name == "root":
        odd = args[1].imag == 0 and mp.isint(args[1]) and int(args[1].real) % 2
        if odd and x.imag == 0 and x.real < 0:
            return -_power(mp, -x, 1 / args[1])
        return _power(mp, x, 1 / args[1])
    if name in _COMBINATORIAL:
        if any(abs(arg) > 10.0**9 for arg in args):
            raise BoundsError(name)
        return getattr(mp, _COMBINATORIAL[name])(*args)
    if name.endswith("("):  # unknown functions: any that no identity relates will do
        draw = random.Random(name)
        return mp.sin(x * mp.mpf(draw.random()) + mp.mpf(draw.random())) + x * mp.mpf(draw.random())
    if name not in ("abs", "ln", "log") and abs(x) > _MAX_EXPONENT:
        raise BoundsError(name)
    if name == "abs":
        return abs(x)
    if name == "log":
        return mp.log(x) / mp.log(args[1])
    return getattr(mp, {"ceil": "ceil", "floor": "floor", "ln": "log"}.get(name, name))(x)


def _power(mp: Any, base: Any, exponent: Any) -> Any:
    if abs(exponent) > _MAX_EXPONENT or (base and abs(exponent) * abs(mp.log(abs(base))) > _MAX_EXPONENT):
        raise BoundsError("power")
    if base == 0 and exponent.real <= 0:
        raise ZeroDivisionError
    return mp.power(base, exponent)
