"""Safe arithmetic: expressions over named numbers, compiled from their syntax tree.

    expression = compile_expression("min(1, risk/5) * align", ("align", "risk"))
    expression.evaluate({"align": 8, "risk": 10})

An expression has numbers, the names, + - * / **, comparisons, `a if b else c`, min, max, abs and sqrt.
Python's eval is never used.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ida_tui.util.format import format_plural
from ida_tui.util.text import quoted

MAX_EXPRESSION_CHARS = 300
"""Maximum length of an expression, in characters."""
ALLOWED = "+ - * / **, < <= > >=, `a if b else c`, min, max, abs and sqrt"
"""The operators and functions of an expression, as text."""

_Evaluator = Callable[[Mapping[str, float]], float]


class ExpressionError(ValueError):
    """An expression has a part that is not allowed; the argument is the message."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression."""

    text: str
    names: tuple[str, ...]
    """The names that it reads."""
    evaluate: _Evaluator
    """The value for the named numbers, always finite. Raises `ArithmeticError` where there is none."""


def compile_expression(text: str, names: Sequence[str]) -> Expression:
    """Compile an expression over these names.

    Raises:
        ExpressionError: the expression is invalid, or has a part that is not allowed.
    """
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ExpressionError(f"longer than {MAX_EXPRESSION_CHARS} characters")
    compiler = _Compiler(names)
    try:
        compute = compiler.compile(ast.parse(text, mode="eval").body)
    except ExpressionError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError("invalid syntax") from None

    def evaluate(values: Mapping[str, float]) -> float:
        try:
            value = compute(values)
        except ValueError as error:  # from math.sqrt and math.pow
            raise ArithmeticError(str(error)) from None
        if not math.isfinite(value):
            raise ArithmeticError("the result is not finite")
        return value

    return Expression(text, tuple(name for name in names if name in compiler.used), evaluate)


_BINARY_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_FUNCTIONS: Mapping[str, tuple[int, Callable[[list[float]], float]]] = {
    "min": (0, min),
    "max": (0, max),
    "abs": (1, lambda values: abs(values[0])),
    "sqrt": (1, lambda values: math.sqrt(values[0])),
}
"""Each function's number of arguments (0: one or more) and its implementation."""


class _Compiler:
    """Compiles expressions to functions of named numbers.

    Args:
        names: the names that an expression may use.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.used: set[str] = set()
        """Names that the compiled expressions read."""

    def compile(self, node: ast.expr) -> _Evaluator:
        """Compile an expression.

        Raises:
            ExpressionError: the expression contains anything that is not listed here.
        """
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return _compile_constant(value)
            case ast.Name(id=name) if name in self._names:
                self.used.add(name)
                return lambda values: values[name]
            case ast.Name(id=name):
                raise ExpressionError(f"unknown name {quoted(name)}")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.compile(operand)
                return lambda values: -inner(values)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.compile(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY_OPERATORS:
                apply = _BINARY_OPERATORS[type(op)]
                first, second = self.compile(left), self.compile(right)
                return lambda values: apply(first(values), second(values))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self.compile(test)
                if_true, if_false = self.compile(body), self.compile(orelse)
                return lambda values: if_true(values) if condition(values) else if_false(values)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                compare = _COMPARISONS[type(op)]
                lhs, rhs = self.compile(left), self.compile(right)
                return lambda values: float(compare(lhs(values), rhs(values)))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return self._compile_call(name, args)
        raise ExpressionError(f"{quoted(ast.unparse(node))} is not allowed")

    def _compile_call(self, name: str, args: list[ast.expr]) -> _Evaluator:
        count, call = _FUNCTIONS[name]
        if not args or (count and len(args) != count):
            raise ExpressionError(
                f"{name} takes {count or 'one or more'} {format_plural(count, 'argument')}"
            )
        evaluators = [self.compile(arg) for arg in args]
        return lambda values: call([evaluate(values) for evaluate in evaluators])


def _compile_constant(value: float) -> _Evaluator:
    try:
        number = float(value)
    except OverflowError:
        raise ExpressionError("a number is too large") from None
    return lambda values: number
