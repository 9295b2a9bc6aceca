r"""What Python and sympy print (`Interval.open(0, 1)`, `{x: 2}`, `Fraction(1, 2)`), in the notation of mathematics.

Programs end in `print(solution)`, so such texts are common answers. They are parsed as Python's syntax tree, and only
the shapes known here are written anew; nothing is evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import lru_cache

_MARKS = re.compile(
    r"\b(?:set|exp)\(|\b(?:Interval|Union|Intersection|Complement|FiniteSet|EmptySet|frozenset|Reals|Integers|Rational|Fraction"
    r"|Integer|Float|Decimal|Eq|Ne|And|Or|Matrix|Poly|Abs|Piecewise|Sum|Product|binomial|factorial|ceiling|log10|log2|log"
    r"|root|np\.\w+|array|tensor|dict_\w+)\b|\{[^{}]*\w\s*:|['\"]|[&|]|\d\s?[jJ]\b|\bE\*\*|[*+/-]\s?E\b|\b(?:nan|zoo)\b"
)
"""What makes a text worth a try: the rest reads the same either way."""
_WRAPPERS = frozenset({"Integer", "Float", "Decimal", "float64", "float32", "int64", "int32", "array", "tensor", "set"})
_WRAPPERS |= {"frozenset", "list", "tuple", "dict_keys", "dict_values", "ImmutableMatrix", "simplify"}
_NAMES = {"I": "i", "E": "e", "oo": r"\infty", "inf": r"\infty", "nan": r"\text{undefined}", "zoo": r"\text{undefined}"}
_NAMES |= {"EmptySet": r"\emptyset", "Reals": r"\mathbb{R}", "Integers": r"\mathbb{Z}"}
_COMPARISONS = {"Eq": "=", "Ne": r"\ne ", "Lt": "<", "Le": r"\le ", "Gt": ">", "Ge": r"\ge "}
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: r"\ne ", ast.Lt: "<", ast.LtE: r"\le ", ast.Gt: ">", ast.GtE: r"\ge ",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^",
}  # fmt: skip
_BRACKETS = {"": "[]", "open": "()", "Ropen": "[)", "Lopen": "(]"}


class _UnknownError(ValueError):
    """Not a printed form that is known here."""


@lru_cache(maxsize=4096)
def mathematical(text: str) -> str:
    """The text in LaTeX if it is a printed Python or sympy object; else the text as it is."""
    if "\\" in text or not _MARKS.search(text):
        return text
    try:
        return _written(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, huge integers, unknown
        return text


def _written(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as value):
            return mathematical(value)
        case ast.Constant(value=complex() as value):
            return f"{value.imag!r}i"
        case ast.Constant(value=bool() | None as value):
            return rf"\text{{{value}}}"
        case ast.Constant(value=int() | float()):
            return ast.unparse(node)
        case ast.Name(id=name):
            return _NAMES.get(name, name)
        case ast.Attribute(value=ast.Name(id="S" | "np" | "math"), attr=name):
            return _NAMES.get(name, name)
        case ast.UnaryOp(op=ast.USub()):
            return f"-{_operand(node.operand)}"
        case ast.UnaryOp(op=ast.UAdd()):
            return _operand(node.operand)
        case ast.BinOp():
            return _operation(node)
        case ast.BoolOp():
            return _joined(" and " if isinstance(node.op, ast.And) else " or ", node.values)
        case ast.Compare(ops=ops) if all(type(op) in _OPERATORS for op in ops):
            sides = [_written(node.left), *map(_written, node.comparators)]
            return sides[0] + "".join(_OPERATORS[type(op)] + side for op, side in zip(ops, sides[1:], strict=True))
        case ast.Dict():
            return _solution(node)
        case ast.Set(elts=items):
            return rf"\{{{_listed(items)}\}}"
        case ast.List(elts=items) if items and all(
            isinstance(i, ast.Constant) and isinstance(i.value, str) for i in items
        ):
            return _listed(items)  # quoted elements are no interval
        case ast.List(elts=items):
            return f"[{_listed(items)}]" if len(items) != 1 else _written(items[0])
        case ast.Tuple(elts=items):
            return f"({_listed(items)})"
        case ast.Call(func=func, args=args):
            return _call(func, args, [keyword.arg for keyword in node.keywords])
    raise _UnknownError


def _operand(node: ast.expr) -> str:
    text = _written(node)
    return text if isinstance(node, ast.Constant | ast.Name | ast.Call) else f"({text})"


def _operation(node: ast.BinOp) -> str:
    if isinstance(node.op, ast.BitAnd | ast.BitOr):  # sympy's And and Or of conditions
        return _joined(" and " if isinstance(node.op, ast.BitAnd) else " or ", [node.left, node.right])
    symbol = _ARITHMETIC.get(type(node.op))
    if symbol is None:
        raise _UnknownError
    if symbol == "^":
        return f"{_operand(node.left)}^{{{_written(node.right)}}}"
    return f"{_operand(node.left)}{symbol}{_operand(node.right)}"


def _joined(word: str, nodes: list[ast.expr]) -> str:
    if not all(isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp | ast.Call) for node in nodes):
        raise _UnknownError
    texts = [_written(node) for node in nodes]
    if word == " and ":  # an "or" below it keeps its bounds
        texts = [f"({text})" if r"\text{ or }" in text else text for text in texts]
    return rf"\text{{{word}}}".join(texts)


def _listed(nodes: list[ast.expr]) -> str:
    return ", ".join(map(_written, nodes))


def _solution(node: ast.Dict) -> str:
    """`{x: 1, y: 2}`, as `sympy.solve` prints a solution; `{x: x > 2}` is a set by its condition."""
    if not node.keys or not all(isinstance(key, ast.Name | ast.Call | ast.Constant) for key in node.keys):
        raise _UnknownError
    pairs = [(_written(key), _written(value)) for key, value in zip(node.keys, node.values, strict=True) if key]
    if len(pairs) == 1:
        by_condition = isinstance(node.values[0], ast.Compare | ast.BoolOp)
        return rf"\{{{pairs[0][0]}\mid {pairs[0][1]}\}}" if by_condition else "=".join(pairs[0])
    return f"({','.join(name for name, _ in pairs)})=({','.join(value for _, value in pairs)})"


def _call(func: ast.expr, args: list[ast.expr], keywords: list[str | None]) -> str:
    match func:
        case ast.Name(id="Interval") if not keywords:
            return _interval("", args)
        case ast.Attribute(value=ast.Name(id="Interval"), attr=kind) if not keywords:
            return _interval(kind, args)
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="np" | "math" | "sympy"), attr=name):
            pass
        case _:
            raise _UnknownError
    if name in _WRAPPERS and len(args) <= 1:
        return _written(args[0]) if args else r"\emptyset"
    if any(keyword not in (None, "domain", "dtype") for keyword in keywords):
        raise _UnknownError
    if name in _COMPARISONS and len(args) == 2:
        return f"{_written(args[0])}{_COMPARISONS[name]}{_written(args[1])}"
    if name in _CALLS:
        try:
            return _CALLS[name](args)
        except IndexError:
            raise _UnknownError from None
    if name in ("And", "Or"):
        return _joined(f" {name.lower()} ", args)
    return f"{name}({_listed(args)})"


def _interval(kind: str, args: list[ast.expr]) -> str:
    if kind not in _BRACKETS or len(args) not in (2, 3, 4):
        raise _UnknownError
    opening, closing = _BRACKETS[kind][0], _BRACKETS[kind][1]
    is_open = [isinstance(arg, ast.Constant) and arg.value is True for arg in args[2:]] + [False, False]
    opening, closing = "(" if is_open[0] else opening, ")" if is_open[1] else closing
    ends = [_written(arg) for arg in args[:2]]
    opening, closing = "(" if "infty" in ends[0] else opening, ")" if "infty" in ends[1] else closing
    return f"{opening}{ends[0]},{ends[1]}{closing}"


def _quotient(args: list[ast.expr]) -> str:
    return f"({_written(args[0])})/({_written(args[1])})" if len(args) == 2 else f"({_written(args[0])})"


def _matrix(args: list[ast.expr]) -> str:
    rows = args[0].elts if isinstance(args[0], ast.List) else []
    cells = [row.elts if isinstance(row, ast.List) else [row] for row in rows]
    if not cells:
        raise _UnknownError
    lines = r"\\".join("&".join(map(_written, row)) for row in cells)
    return rf"\begin{{bmatrix}}{lines}\end{{bmatrix}}"


def _piecewise(args: list[ast.expr]) -> str:
    rows = []
    for branch in args:
        if not isinstance(branch, ast.Tuple) or len(branch.elts) != 2:
            raise _UnknownError
        value, condition = branch.elts
        otherwise = isinstance(condition, ast.Constant) and condition.value is True
        rows.append(f"{_written(value)}&" + (r"\text{otherwise}" if otherwise else _written(condition)))
    lines = r" \\ ".join(rows)
    return rf"\begin{{cases}}{lines}\end{{cases}}"


def _series(sign: str) -> Callable[[list[ast.expr]], str]:
    def written(args: list[ast.expr]) -> str:
        limits = args[1]
        if not isinstance(limits, ast.Tuple) or len(limits.elts) != 3:
            raise _UnknownError
        index, first, last = map(_written, limits.elts)
        return rf"{sign}_{{{index}={first}}}^{{{last}}}({_written(args[0])})"

    return written


def _logarithm(args: list[ast.expr]) -> str:
    value = _written(args[0])
    return rf"\log_{{{_written(args[1])}}}({value})" if len(args) > 1 else rf"\ln({value})"


_CALLS: dict[str, Callable[[list[ast.expr]], str]] = {
    "Rational": _quotient,
    "Fraction": _quotient,
    "Union": lambda args: r"\cup ".join(map(_written, args)),
    "Intersection": lambda args: r"\cap ".join(map(_written, args)),
    "Complement": lambda args: rf"{_written(args[0])}\setminus {_written(args[1])}",
    "FiniteSet": lambda args: rf"\{{{_listed(args)}\}}",
    "Matrix": _matrix,
    "Poly": lambda args: _written(args[0]),
    "Piecewise": _piecewise,
    "Sum": _series(r"\sum"),
    "Product": _series(r"\prod"),
    "Abs": lambda args: rf"abs({_written(args[0])})",
    "binomial": lambda args: rf"\binom{{{_written(args[0])}}}{{{_written(args[1])}}}",
    "factorial": lambda args: f"({_written(args[0])})!",
    "ceiling": lambda args: f"ceil({_written(args[0])})",
    "log": _logarithm,
    "log10": lambda args: rf"\log_{{10}}({_written(args[0])})",
    "log2": lambda args: rf"\log_{{2}}({_written(args[0])})",
    "root": lambda args: rf"\sqrt[{_written(args[1])}]{{{_written(args[0])}}}",
}
