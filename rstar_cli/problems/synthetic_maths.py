"""Problems told in mathematical terms: equations, number theory, counting, sequences, areas, fractions."""

from __future__ import annotations

import math

from rstar_cli.problems import synthetic_expressions as ex
from rstar_cli.problems.synthetic_draft import Draft, Event, between, whole


def linear(draft: Draft) -> None:
    """A linear equation: x + b = c, a x + b = c, or with x on both sides."""
    rng = draft.rng
    x, a, b = rng.randint(2, 20), rng.randint(2, 9), rng.randint(1, 30)
    if draft.level == 1:
        draft.say(f"Solve x + {b} = {x + b} for x.", f"The number x fits x + {b} = {x + b} . Find x.")
        draft.step("isolate", "isolate x", ex.SUBTRACT(x + b, b), ex.ADD(x + b, b))
        return
    if draft.level == 2 or rng.random() < 0.5:
        c = a * x + b
        draft.say(f"Solve {a} x + {b} = {c} for x.", f"The number x fits {a} x + {b} = {c} . Find x.")
        moved = draft.step("isolate", "move the constant", ex.SUBTRACT(c, b), ex.ADD(c, b))
        draft.step("isolate", "divide", ex.FLOOR_DIVIDE(moved, a), ex.SUBTRACT(moved, a))
        return
    d = a + rng.randint(1, 7)
    c = (d - a) * x + b
    draft.say(f"Solve {d} x + {b} = {a} x + {c} for x.", f"The number x fits {d} x + {b} = {a} x + {c} . Find x.")
    moved = draft.step("isolate", "move the constant", ex.SUBTRACT(c, b), ex.ADD(c, b))
    many = draft.step("collect", "collect x", ex.SUBTRACT(d, a), ex.ADD(d, a))
    draft.step("isolate", "divide", ex.FLOOR_DIVIDE(moved, many), ex.MULTIPLY(moved, many))


def system(draft: Draft) -> None:
    """Two linear equations in x and y."""
    rng = draft.rng
    x, y = rng.randint(5, 40), rng.randint(1, 40)
    if draft.level >= 3 and rng.random() < 0.4:
        a = rng.randint(3, 9)
        p, q = a * x + y, x + y
        draft.say(
            f"Numbers x and y have {a} x + y = {p} and x + y = {q} . Find x.",
            f"Solve {a} x + y = {p} and x + y = {q} for x.",
        )
        left = draft.step("eliminate", "subtract the equations", ex.SUBTRACT(p, q), ex.ADD(p, q))
        many = draft.step("collect", "collect x", ex.LESS_ONE(a), ex.SAME(a))
        draft.step("isolate", "divide", ex.FLOOR_DIVIDE(left, many), ex.MULTIPLY(left, many))
        return
    x, y = max(x, y) + 1, min(x, y)
    total, gap = x + y, x - y
    draft.say(
        f"Numbers x and y have x + y = {total} and x - y = {gap} .",
        f"Two numbers x and y have sum {total} and difference {gap} , x the larger.",
    )
    double = draft.step("eliminate", "add both", ex.ADD(total, gap), ex.SUBTRACT(total, gap))
    first = draft.step("isolate", "find x", ex.HALVE(double), ex.DOUBLE(double))
    wanted = rng.randint(0, min(draft.level - 2, 2))
    if wanted == 0:
        draft.say("Find x.")
        return
    second = draft.step("isolate", "find y", ex.SUBTRACT(total, first), ex.ADD(total, first))
    if wanted == 1:
        draft.say("Find y.")
        return
    draft.say("Find the product of both.", "Take their product.")
    draft.step("multiply", "product", ex.MULTIPLY(first, second), ex.ADD(first, second))


def quadratic(draft: Draft) -> None:
    """Roots of x^2 - s x + q, or what can be said of them without solving."""
    rng = draft.rng
    r = rng.randint(2, 15)
    t = rng.randint(1, r - 1)
    s, q = r + t, r * t
    if draft.level < 4 or rng.random() < 0.3:
        if rng.random() < 0.5:
            draft.say(
                f"Find the discriminant of x ^ 2 - {s} x + {q} .",
                f"Let x ^ 2 - {s} x + {q} = 0 . Take its discriminant.",
            )
            draft.step("discriminant", "discriminant", ex.DISCRIMINANT(s, q), ex.DISCRIMINANT_PLUS(s, q))
        else:
            draft.say(
                f"Find the sum of the squares of the roots of x ^ 2 - {s} x + {q} = 0 .",
                f"Square both roots of x ^ 2 - {s} x + {q} = 0 and add them.",
            )
            draft.step("root squares", "sum of squares", ex.SQUARE_LESS_TWICE(s, q), ex.SQUARE_LESS(s, q))
        return
    larger = rng.random() < 0.5
    which = "larger" if larger else "smaller"
    draft.say(
        f"Find the {which} root of x ^ 2 - {s} x + {q} = 0 .", f"Let x be the {which} root of x ^ 2 - {s} x + {q} = 0 ."
    )
    inner = draft.step("discriminant", "discriminant", ex.DISCRIMINANT(s, q), ex.DISCRIMINANT_PLUS(s, q))
    root = draft.step("root", "its root", ex.ISQRT(inner))
    plus, minus = ex.ADD(s, root), ex.SUBTRACT(s, root)
    top = draft.step("root", "numerator", *((plus, minus) if larger else (minus, plus)))
    draft.step("root", "halve", ex.HALVE(top), ex.DOUBLE(top))


def number_theory(draft: Draft) -> None:
    """Greatest common divisor, least common multiple, products and powers modulo a number."""
    rng = draft.rng
    choice = rng.randrange(4)
    if choice == 0:
        a, b = rng.randint(11, 60), rng.randint(11, 60)
        draft.say(
            f"Find the least common multiple of {a} and {b}.", f"What is the smallest number that {a} and {b} divide?"
        )
        draft.step("lcm", "common multiple", ex.LCM(a, b), ex.GCD(a, b))
    elif choice == 1:
        g = rng.randint(2, 12)
        a, b = g * rng.randint(2, 12), g * rng.randint(2, 12)
        draft.say(
            f"Find the greatest common divisor of {a} and {b}.", f"What is the largest number dividing {a} and {b}?"
        )
        draft.step("gcd", "common divisor", ex.GCD(a, b), ex.LCM(a, b))
    elif choice == 2:
        a, b, k = rng.randint(11, 60), rng.randint(11, 60), rng.randint(3, 17)
        draft.say(f"Compute {a} times {b} mod {k}.", f"Find the remainder of {a} times {b} mod {k}.")
        draft.step("modulus", "remainder of the product", ex.PRODUCT_MODULUS(a, b, k), ex.MULTIPLY(a, b))
    else:
        a, b, k = rng.randint(2, 9), rng.randint(2, 5), rng.randint(3, 17)
        draft.say(f"Compute {a} to the power {b} mod {k}.", f"Find the remainder of {a} ^ {b} mod {k}.")
        draft.step("modulus", "remainder of the power", ex.POWER_MODULUS(a, b, k), ex.PRODUCT_MODULUS(a, b, k))


def counting(draft: Draft) -> None:
    """Choices with and without order, from level 2 on often two of them together."""
    rng = draft.rng
    n, k = rng.randint(5, 11), rng.randint(2, 4)
    if rng.random() < 0.5:
        draft.say(
            f"Choose a team of {k} from {n} people.",
            f"A committee of {k} is formed from {n} members.",
            f"In how many ways can {k} of {n} songs be picked?",
        )
        draft.step("combination", "count the choices", ex.COMB(n, k), ex.PERM(n, k), ex.MULTIPLY(n, k))
    else:
        draft.say(
            f"Line up {k} of {n} people in order.",
            f"Give first to last of {k} prizes to {n} runners.",
            f"Count the ordered rows of {k} out of {n} books.",
        )
        draft.step("permutation", "count the orders", ex.PERM(n, k), ex.COMB(n, k))
    if draft.level >= 2 and rng.random() < 0.6:
        n, k, last = rng.randint(4, 9), rng.randint(2, 3), draft.last
        draft.say(f"Also pick {k} of {n} books.", f"Besides pick {k} of {n} songs.")
        draft.step("combination", "combine the choices", ex.TIMES_COMB(last, n, k), ex.PLUS_COMB(last, n, k))


def sequence(draft: Draft) -> None:
    """Sums, geometric terms, arithmetic terms and series."""
    rng = draft.rng
    if draft.level < 3 or rng.random() < 0.4:
        if rng.random() < 0.5:
            n = rng.randint(5, 99)
            draft.say(f"Add all numbers from 1 to {n}.", f"Find the sum of the first {n} whole numbers.")
            draft.step("series", "sum of the numbers", ex.SUM_TO(n), ex.SUM_BELOW(n))
        else:
            a, r, n = rng.randint(1, 12), rng.randint(2, 4), rng.randint(3, 6)
            draft.say(
                f"A sequence starts at {a} and each term is {r} times the one before. Take term {n}.",
                f"In a geometric sequence with first term {a} and ratio {r} look at term {n}.",
            )
            draft.step("geometric", "the term", ex.GEOMETRIC(a, r, n), ex.GEOMETRIC_LATE(a, r, n))
        return
    a, d, n = rng.randint(1, 20), rng.randint(2, 9), rng.randint(5, 30)
    draft.say(
        f"A sequence starts at {a} and rises by {d} each time. Take term {n}.",
        f"In an arithmetic sequence with first term {a} and difference {d} look at term {n}.",
    )
    jumps = draft.step("jumps", "number of jumps", ex.LESS_ONE(n), ex.SAME(n))
    rise = draft.step("multiply", "total rise", ex.MULTIPLY(jumps, d), ex.ADD(jumps, d))
    term = draft.step("add", "the term", ex.ADD(a, rise), ex.SECOND(a, rise))
    if draft.level >= 4 and rng.random() < 0.5:
        draft.say("Sum all terms up to it.", "Add it and all terms before it.")
        draft.step("series", "sum of the terms", ex.SERIES(a, term, n), ex.LAST_TIMES(a, term, n))


def area(draft: Draft) -> None:
    """Rectangles and triangles, from level 3 on often with a square cut out."""
    rng = draft.rng
    a, b = rng.randint(5, 30), rng.randint(3, 20)
    shape = rng.randrange(3)
    if shape == 0 and draft.level >= 2:
        draft.say(
            f"A garden is {a} m long and {b} m wide. A fence goes around it.",
            f"Find the perimeter of a {a} by {b} rectangle.",
        )
        half = draft.step("sides", "two sides", ex.ADD(a, b), ex.MULTIPLY(a, b))
        draft.step("sides", "perimeter", ex.TWICE(half))
        return
    if shape == 1:
        a += a % 2
        draft.say(
            f"A triangle has base {a} and height {b}. Take its area.",
            f"Find the area of a triangle of base {a} and height {b}.",
        )
        draft.step("triangle", "triangle area", ex.TRIANGLE(a, b), ex.MULTIPLY(a, b))
    else:
        draft.say(
            f"A garden is {a} m long and {b} m wide. Take its area.",
            f"Find the area of a {a} by {b} rectangle.",
        )
        draft.step("area", "area", ex.MULTIPLY(a, b), ex.ADD(a, b))
    if draft.level >= 2 and rng.random() < 0.5:
        side, last = rng.randint(2, min(9, math.isqrt(int(draft.values[-1]) - 1))), draft.last
        draft.say(f"Remove a square of side {side}.", f"A square of side {side} is cut out.")
        draft.step("cut", "cut the square", ex.LESS_SQUARE(last, side), ex.SUBTRACT(last, side))


def fractions(draft: Draft) -> None:
    """Sums, products and quotients of fractions."""
    rng = draft.rng
    b, d = rng.randint(2, 9), rng.randint(2, 9)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    if rng.random() < 0.6:
        draft.say(f"Add {a} / {b} and {c} / {d} .", f"Find the sum of {a} / {b} and {c} / {d} .")
        draft.step("fraction", "add the fractions", ex.FRACTION_SUM(a, b, c, d), ex.FRACTION_SUM_ACROSS(a, b, c, d))
    else:
        draft.say(f"Multiply {a} / {b} by {c} / {d} .", f"Take {a} / {b} of {c} / {d} .")
        draft.step("fraction", "multiply the fractions", ex.FRACTION_PRODUCT(a, b, c, d), ex.FRACTION_SUM(a, b, c, d))
    for _ in range(min(draft.level, 3) - 1):
        a, b, last = rng.randint(1, 9), rng.randint(2, 9), draft.last
        choice = rng.randrange(3)
        if choice == 0:
            draft.say(f"Then add {a} / {b} .", f"Put {a} / {b} on top.")
            draft.step("fraction", "add the fraction", ex.PLUS_FRACTION(last, a, b), ex.LESS_FRACTION(last, a, b))
        elif choice == 1:
            draft.say(f"Then multiply by {a} / {b} .", f"Take {a} / {b} of that.")
            draft.step("fraction", "times the fraction", ex.TIMES_FRACTION(last, a, b), ex.LESS_FRACTION(last, a, b))
        else:
            draft.say(f"Then divide by {a} / {b} .", f"See how often {a} / {b} fits.")
            draft.step("fraction", "over the fraction", ex.OVER_FRACTION(last, a, b), ex.TIMES_FRACTION(last, a, b))


def _round_target(draft: Draft) -> int | None:
    return draft.rng.choice((50, 100, 200, 500))


_ANY = (
    Event(
        "add", "add", ex.ADD, (ex.MULTIPLY,), between(2, 40),
        {"number": ("Add {k} to the result.", "Increase it by {k}.")},
    ),
    Event(
        "subtract", "subtract", ex.SUBTRACT, (ex.SUBTRACT_FROM,), between(2, 40),
        {"number": ("Subtract {k} from the result.", "Decrease it by {k}.")},
    ),
    Event(
        "multiply", "multiply", ex.MULTIPLY, (ex.ADD,), between(2, 9),
        {"number": ("Multiply the result by {k}.", "Take {k} times that.")},
    ),
    Event(
        "gap", "subtract from", ex.SUBTRACT_FROM, (ex.SUBTRACT,), _round_target,
        {"number": ("Subtract that from {k}.", "Take {k} minus the result.")},
    ),
)  # fmt: skip
FRACTION_EVENTS = _ANY
NUMBER_EVENTS = (
    *_ANY,
    Event(
        "square", "square", ex.SQUARE, (ex.DOUBLE,), whole(between(2, 2), -99, 99),
        {"number": ("Square the result.", "Take its square.")},
    ),
    Event(
        "modulus", "remainder", ex.MODULUS, (ex.FLOOR_DIVIDE,), whole(between(3, 17), -(10**7), 10**7),
        {"number": ("Find the remainder mod {k}.", "Divide by {k} and keep the remainder.")},
    ),
    Event(
        "digits", "digit sum", ex.DIGIT_SUM, (ex.LAST_DIGIT,), whole(between(2, 2), 10, 10**7),
        {"number": ("Sum the digits of that.", "Take its digit sum.")},
    ),
    Event(
        "gcd", "common divisor", ex.GCD, (ex.LCM, ex.MODULUS), whole(between(6, 60), 2, 10**7),
        {"number": ("Take its greatest common divisor with {k}.", "Find the largest number dividing both it and {k}.")},
    ),
)  # fmt: skip
