"""Whether a program solves a problem as it is to be solved, or came to the right answer by luck.

The synthetic generator knows the right program. Another one is genuine if it prints the same formula of the same
numbers: names, comments, the order of terms and factors, and how the formula is cut into steps do not matter. What is
equal by algebra beyond that (`x + x` for `2 * x`) does not count, so a share of genuine programs is a lower bound; and
whatever counts computes the same for other numbers, too.
"""

from __future__ import annotations

import ast
from hashlib import blake2b

_MOST_TERMS = 256
"""Longer sums and products are no solution of a problem of ours."""


def is_genuine(program: str, right: str) -> bool:
    """Whether a program prints the same formula as the right one. It is parsed, not run."""
    printed = _Formulas().printed(program)
    return printed is not None and printed == _Formulas().printed(right)


class _Formulas:
    """Formulas by their digests, so that one that is used often is kept once."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[str, list[str]]] = {}

    def printed(self, program: str) -> str | None:
        """The digest of what a program prints; None where it is more than assignments and one print."""
        try:
            body = ast.parse(program).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        known: dict[str, str] = {}
        try:
            for statement in body:
                match statement:
                    case ast.Import() | ast.ImportFrom():
                        continue
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        known[name] = self._formula(value, known)
                    case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[value])):
                        return self._formula(value, known)
                    case _:
                        return None
        except (_UnknownForm, RecursionError):
            return None
        return None

    def _formula(self, node: ast.expr, known: dict[str, str]) -> str:
        def of(*nodes: ast.expr) -> list[str]:
            return [self._formula(each, known) for each in nodes]

        match node:
            case ast.Constant(value=value):
                return self._keep(repr(value), [])
            case ast.Name(id=name):
                return known.get(name) or self._keep(name, [])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._keep("neg", of(operand))
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return self._keep("Add", [*of(left), self._keep("neg", of(right))])
            case ast.BinOp(left=left, op=op, right=right):
                return self._keep(type(op).__name__, of(left, right))
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=[]):
                return self._keep(f"{name}()", of(*args))
        raise _UnknownForm

    def _keep(self, head: str, parts: list[str]) -> str:
        if head in ("Add", "Mult"):  # (x + y) + z is x + y + z
            below = [self._parts[part] for part in parts]
            parts = [p for part, (h, ps) in zip(parts, below, strict=True) for p in (ps if h == head else [part])]
        if len(parts) > _MOST_TERMS:
            raise _UnknownForm
        if head in ("Add", "Mult", "gcd()", "lcm()"):
            parts = sorted(parts)
        digest = blake2b("\x1f".join([head, *parts]).encode(), digest_size=16).hexdigest()
        self._parts[digest] = (head, parts)
        return digest


class _UnknownForm(Exception):  # noqa: N818 - it never leaves this module
    """A formula that is not taken apart."""
