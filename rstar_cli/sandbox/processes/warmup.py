"""What the zygotes import, and exercise, before they fork: a program then pays for none of it."""

from __future__ import annotations

import importlib
import os
import sys

_STANDARD = (
    "array, bisect, calendar, cmath, collections, contextlib, copy, dataclasses, datetime, decimal, enum, fractions, "
    "functools, heapq, inspect, io, itertools, json, math, numbers, operator, os, pprint, queue, random, re, "
    "statistics, string, sys, textwrap, time, timeit, traceback, types, typing, warnings"
)


def load_standard() -> None:
    """Import the modules of the standard library that programs use."""
    _load_unforked()
    for name in _STANDARD.split(", "):
        importlib.import_module(name)


def _load_unforked() -> None:
    """Import `random` and `threading` without their hooks after forks.

    In every child the one would reseed its generator, which shall be the same in all programs and carry on from prefix
    to branch; the other would renew locks of threads that we do not have. Both cost a good part of a fork.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        for name in ("random", "threading"):
            sys.modules.pop(name, None)  # where Python's start has imported it, with its hook
            importlib.import_module(name)
    finally:
        os.register_at_fork = register
    sys.modules["random"].seed(0)


def load_scientific() -> None:
    """Import numpy and sympy, run what programs commonly call (fills sympy's caches), seed their generators."""
    import numpy as np
    import sympy as sp

    x, y, t = sp.symbols("x y t")
    k, n = sp.symbols("k n", integer=True, positive=True)
    quadratic = 3 * x**2 - 5 * x - 2
    sp.solve(sp.Eq(quadratic, 0), x)
    sp.solve([x + 2 * y - 4, 3 * x - y - 5], [x, y])
    sp.solve(x**2 - 7, x)
    sp.solveset(quadratic, x, sp.S.Reals)
    sp.factor(sp.summation(k**2 + k, (k, 1, n)))
    sp.expand((x - 1) ** 3)
    sp.simplify((x**2 - 1) / (x + 1))
    sp.cancel((x**2 - y**2) / (x - y))
    sp.integrate(quadratic * sp.sin(x), (x, 0, sp.pi)).evalf()
    sp.diff(sp.exp(x) * sp.log(x), x)
    sp.limit(sp.sin(x) / x, x, 0)
    sp.trigsimp(sp.sin(t) ** 2 + sp.cos(t) ** 2)
    sp.nsimplify(sp.Rational(1, 3).evalf())
    sp.Matrix([[2, 1], [1, 3]]).inv().det()
    sp.Poly(quadratic, x).all_roots()
    sp.factorint(5040), sp.divisors(84), sp.totient(36), sp.isprime(97), list(sp.primerange(2, 30)), sp.gcd(84, 36)
    sp.sqrt(72), sp.binomial(9, 4), sp.latex(quadratic / 4), str(sp.sqrt(2) * sp.pi), sp.N(sp.E)
    np.linalg.solve(np.array([[2.0, 1.0], [1.0, 3.0]]), np.ones(2))
    np.roots([1, -3, 2])
    np.random.seed(0)
    sp.core.random.seed(0)
