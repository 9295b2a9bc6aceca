"""Agreement of two expressions at fixed points, to many digits. Runs in the worker process only.

Two constants are equal if they agree to 40 digits, two expressions in variables if they agree at every sample point
where both are real (at least three such points; where there is none, at points where they are complex). The points are
drawn from the names of the variables, so the same pair always gets the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from rstar_cli.grader.exact import BoundsError, exact_value
from rstar_cli.grader.expression import Call, Expression, Number, Symbol

_DIGITS = 60
_AGREE = 40
_POINTS = 10
_ENOUGH = 3
_CONSTANTS = frozenset({"pi", "e", "i"})
_MAX_EXPONENT = 10.0**12


def agree(gold: Expression, prediction: Expression) -> bool | None:
    """Whether two expressions have the same value everywhere; None where that can't be told.

    Raises:
        BoundsError: a value is too large to compute.
    """
    names = sorted(_names(gold) | _names(prediction))
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
    names = sorted(_names(gold) | _names(prediction))
    if not names:
        return None
    ratios = []
    for g, p in _values((gold, prediction), names):
        if abs(p) < 1e-20 or abs(g) < 1e-20:
            return None if abs(p - g) < 1e-20 else False
        ratios.append(g / p)
    if len(ratios) < _ENOUGH:
        return None
    first = ratios[0]
    if positive and (abs(first.imag) > 1e-20 or first.real <= 0):
        return False
    return all(abs(ratio - first) <= abs(first) * 10.0**-_AGREE for ratio in ratios)


def has_symbols(tree: Expression) -> bool:
    """Whether an expression has variables."""
    return bool(_names(tree))


def _names(tree: Expression) -> set[str]:
    if isinstance(tree, Symbol):
        return set() if tree.name in _CONSTANTS else {tree.name}
    return set().union(*map(_names, tree.args)) if isinstance(tree, Call) else set()


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
            return bool(same) or _is_rounding_of(gold, prediction) or _is_rounding_of(prediction, gold)
        with mp.workdps(3 * _DIGITS):  # tiny: zero, if it shrinks with the precision
            finer = abs(_evaluate(gold, {}) - _evaluate(prediction, {}))
        return bool(finer <= difference * mp.mpf(10) ** -_AGREE)
    except (ZeroDivisionError, ValueError):
        return None


def _is_rounding_of(decimal: Expression, value: Expression) -> bool:
    """Whether a decimal is a binary double printed in full (15 digits or more) of an irrational value.

    Programs print `0.8660254037844386` for half the root of 3. Shorter decimals, and those of a rational value, are
    other numbers.
    """
    from mpmath import mp

    if isinstance(decimal, Call) and decimal.name == "neg":
        decimal, value = decimal.args[0], Call("neg", (value,))
    if not isinstance(decimal, Number) or decimal.digits < 15 or exact_value(value) is not None:
        return False
    with mp.workdps(_DIGITS):
        exact = _evaluate(value, {})
        return bool(abs(exact - _evaluate(decimal, {})) <= abs(exact) * 1e-14)


def _values(trees: tuple[Expression, Expression], names: list[str]) -> Iterator[tuple[Any, Any]]:
    """Values of both at the sample points where both are defined: positive points first, then of either sign."""
    from mpmath import mp

    for point in range(_POINTS):
        with mp.workdps(_DIGITS):
            at = {}
            for name in names:
                draw = random.Random(f"{point}:{name}")
                size = mp.mpf(draw.randint(10**18, 3 * 10**18)) / 10**18 - mp.mpf("0.6")
                at[name] = -size if point >= _POINTS // 2 and draw.random() < 0.6 else size
            try:
                yield _evaluate(trees[0], at), _evaluate(trees[1], at)
            except (ZeroDivisionError, ValueError):
                continue  # undefined there


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
    args = [_evaluate(arg, at) for arg in tree.args]
    value = _apply(mp, tree.name, args)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    return value


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
    if name in ("factorial", "binom"):
        if any(abs(arg) > 10.0**9 for arg in args):
            raise BoundsError(name)
        return (mp.factorial if name == "factorial" else mp.binomial)(*args)
    if name in ("f", "g"):  # unknown functions: any two that no identity relates will do
        return mp.sin(x * mp.mpf("1.37") + (1 if name == "f" else 2)) + x / 7
    if abs(x) > _MAX_EXPONENT:
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
