"""The programs that the sandbox is measured with: five steps each, as a policy writes them, most with sympy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

DEPTH = 5
"""Steps of a program."""


@dataclass(frozen=True, slots=True)
class StepProgram:
    """A program in steps.

    Attributes:
        id: names it, as the prompt names the tree of a search.
        steps: code, in order.
    """

    id: str
    steps: tuple[str, ...]

    @property
    def code(self) -> str:
        """The whole program."""
        return "\n".join(self.steps)


def mixed(count: int) -> list[StepProgram]:
    """So many different programs, 60 % of them with sympy from the first five on."""
    return _vary("mixed", [text for three, two in _FIVES for text in (*three, *two)], count)


def scientific(count: int) -> list[StepProgram]:
    """So many different programs with sympy."""
    return _vary("scientific", [text for three, _ in _FIVES for text in three], count)


def bare(count: int) -> list[StepProgram]:
    """So many different programs without sympy or numpy."""
    return _vary("bare", [text for _, two in _FIVES for text in two if "numpy" not in text], count)


def _vary(name: str, texts: list[str], count: int) -> list[StepProgram]:
    """Take turns among the texts, each time with another `k`."""
    made = []
    for i, text in enumerate(islice(cycle(texts), count)):
        steps = text.strip().replace("k = 3", f"k = {3 + i}").split("\n\n")
        made.append(StepProgram(f"{name} {i}", tuple(steps)))
    return made


_QUADRATIC = """
# Step 1: the equation
from sympy import Eq, expand, simplify, solve, symbols
k = 3
x = symbols('x')
left = expand((2*x - k)*(x + 5))
print(left)

# Step 2: solve it
roots = solve(Eq(left, 0), x)
print(roots)

# Step 3: their sum, by Vieta
total = simplify(sum(roots))
print(total)

# Step 4: their product
product = simplify(roots[0]*roots[1])
print(product)

# Step 5: the sum of their squares
print(simplify(total**2 - 2*product))
"""

_POLYNOMIAL = """
# Step 1: the polynomial
from sympy import diff, expand, factor, integrate, symbols
k = 3
x = symbols('x')
f = expand((x - 1)**2*(x + k))
print(f)

# Step 2: its derivative
slope = diff(f, x)
print(factor(slope))

# Step 3: factor it
print(factor(f))

# Step 4: the area below it
area = integrate(f, (x, 0, 1))
print(area)

# Step 5: the answer
print(area.p + area.q)
"""

_DIVISORS = """
# Step 1: the number
from sympy import divisors, factorint, gcd, isprime, totient
k = 3
n = 5040 + 7*k
print(factorint(n))

# Step 2: its divisors
found = divisors(n)
print(len(found), sum(found))

# Step 3: Euler's function
print(totient(n))

# Step 4: those that are prime
primes = [d for d in found if isprime(d)]
print(primes)

# Step 5: the answer
print(gcd(n, sum(primes)))
"""

_SYSTEM = """
# Step 1: two equations
from sympy import Eq, solve, symbols
k = 3
x, y = symbols('x y')
first, second = Eq(2*x + 3*y, k), Eq(x - y, 4)
print(first, second)

# Step 2: solve them
solution = solve([first, second], [x, y])
print(solution)

# Step 3: put the values in
print(first.subs(solution), second.subs(solution))

# Step 4: their product
product = solution[x]*solution[y]
print(product)

# Step 5: the answer
print(product.p + product.q)
"""

_FRACTION = """
# Step 1: the expression
import sympy as sp
k = 3
a, b = sp.symbols('a b')
term = (a**2 - b**2)/(a - b) + k*a
print(term)

# Step 2: simplify it
short = sp.simplify(term)
print(short)

# Step 3: put numbers in
value = short.subs({a: 7, b: sp.Rational(1, 2)})
print(value)

# Step 4: its square, expanded
square = sp.expand(short**2)
print(square)

# Step 5: the answer
print(square.coeff(a, 2) + value)
"""

_SERIES = """
# Step 1: the sum
import sympy as sp
k = 3
i, n = sp.symbols('i n', integer=True, positive=True)
closed = sp.summation(i**2 + k*i, (i, 1, n))
print(sp.factor(closed))

# Step 2: for n = 20
value = closed.subs(n, 20)
print(value)

# Step 3: the same by adding up
print(value == sum(j*j + k*j for j in range(1, 21)))

# Step 4: its last digits
digits = int(value) % 1000
print(digits)

# Step 5: the answer
print(sp.gcd(value, 2520))
"""

_MODULAR = """
# Step 1: a power
k = 3
base, modulus = k + 1, 1009
print(pow(base, 77, modulus))

# Step 2: the order of the base
order, power = 1, base % modulus
while power > 1:
    power = power*base % modulus
    order += 1
print(order)

# Step 3: reduce the exponent
rest = 10**9 % order
print(rest)

# Step 4: the power
result = pow(base, rest, modulus)
print(result)

# Step 5: the answer
print(result == pow(base, 10**9, modulus), result)
"""

_COUNTING = """
# Step 1: how many choices
from itertools import combinations
from math import comb
k = 3
size = 8 + k % 4
print(comb(size, 4))

# Step 2: those whose sum is divisible by 3
good = sum(1 for chosen in combinations(range(size), 4) if sum(chosen) % 3 == 0)
print(good)

# Step 3: the others
print(comb(size, 4) - good)

# Step 4: the probability
from fractions import Fraction
chance = Fraction(good, comb(size, 4))
print(chance)

# Step 5: the answer
print(chance.numerator + chance.denominator + k)
"""

_RECURRENCE = """
# Step 1: the sequence
from functools import lru_cache
k = 3
@lru_cache(maxsize=None)
def term(n):
    return k if n < 2 else term(n - 1) + term(n - 2)
print(term(10))

# Step 2: its first terms
terms = [term(n) for n in range(40)]
print(terms[:8])

# Step 3: the even ones
even = [value for value in terms if value % 2 == 0]
print(len(even))

# Step 4: their sum
total = sum(even)
print(total)

# Step 5: the answer
print(total % 997)
"""

_TRIANGLE = """
# Step 1: the corners
import numpy as np
k = 3
A, B, C = np.array([0, 0]), np.array([k, 0]), np.array([3, 4])
print(B - A, C - A)

# Step 2: the sides
sides = [float(np.linalg.norm(p - q)) for p, q in ((A, B), (B, C), (C, A))]
print([round(side, 4) for side in sides])

# Step 3: half the perimeter
import math
half = sum(sides)/2
print(round(half, 4))

# Step 4: the area, by Heron
area = math.sqrt(max(half*math.prod(half - side for side in sides), 0))
print(round(area, 4))

# Step 5: the answer
print(round(area*2))
"""

_FIVES = (
    ((_QUADRATIC, _POLYNOMIAL, _DIVISORS), (_MODULAR, _COUNTING)),
    ((_SYSTEM, _FRACTION, _SERIES), (_RECURRENCE, _TRIANGLE)),
)
"""Fives of programs: three with sympy, two without."""
