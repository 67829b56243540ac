"""Reward formulas: functions of align, risk and detail, by name or as an expression.

    formula("r_ida")                                  the default reward of a run
    formula("weighted", {"align": 2.0})               the weighted mean of the axes
    formula("align * min(risk, detail) / 100")        arithmetic over align, risk and detail
    formula("mine")                                   a formula plugin of an installed package

An expression is compiled here from its syntax tree; Python's eval is never used.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ida_tui.config.schema import AXES
from ida_tui.errors import UsageError
from ida_tui.rewards.r_ida import HIGHEST, r_ida
from ida_tui.util import plugins
from ida_tui.util.text import quoted

Reward = Callable[[float, float, float], float]
"""A function of align, risk and detail, 0 to 10 each, that returns a reward."""
_Values = Mapping[str, float]
_Part = Callable[[_Values], float]

LONGEST = 300
"""Maximum length of an expression, in characters."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A named function from three axis scores to one reward."""

    name: str
    words: str
    """The formula in mathematical notation, for display."""
    reward: Reward
    """Raises `ArithmeticError` where the formula has no value, such as a division by zero."""


def _ungated(align: float, risk: float, detail: float) -> float:
    return align * (risk + detail) / 200


def _align_only(align: float, risk: float, detail: float) -> float:
    return align / HIGHEST


def _weakest(align: float, risk: float, detail: float) -> float:
    return min(align, risk, detail) / HIGHEST


NAMED: Mapping[str, Formula] = {
    formula.name: formula
    for formula in (
        Formula("r_ida", "min(1, risk/5) · align · (risk + detail) / 200", r_ida),
        Formula("ungated", "align · (risk + detail) / 200", _ungated),
        Formula("align-only", "align / 10", _align_only),
        Formula("weakest", "min(align, risk, detail) / 10", _weakest),
    )
}
WEIGHTED = "weighted"
KNOWN = (*NAMED, WEIGHTED)
"""Names of the built-in formulas."""


def formula(text: str, weights: Mapping[str, float] | None = None) -> Formula:
    """Look up a formula by name, or parse an expression over align, risk and detail.

    Args:
        text: one of `KNOWN`, the name of a plugin, or an expression with + - * / **, comparisons,
            `a if b else c`, min, max, abs and sqrt.
        weights: weight per axis, for `weighted`; the default weight is 1.

    Raises:
        UsageError: the text or a weight is invalid, or the formula takes no weights.
        IdaError: the plugin cannot be loaded.
    """
    text = text.strip()
    if weights and text != WEIGHTED:
        raise UsageError(
            f"weights require formula=weighted, not {quoted(text)}",
            "remove formula=, or write the weights into it: formula='(2*align + risk + detail)/40'",
        )
    if text == WEIGHTED:
        return _weighted(weights or {})
    if text in NAMED:
        return NAMED[text]
    if text not in AXES and text in plugins.names(plugins.FORMULAS):
        return installed(text)
    return _expression(text)


def installed(name: str) -> Formula:
    """Load a formula plugin: an entry point of the group ``ida_tui.formulas``.

    The plugin is a function of align, risk and detail, 0 to 10 each, that returns the reward, 0 to 1. If it
    raises or returns anything else, the completion has no reward.

    Raises:
        UsageError: no installed package provides the formula.
        IdaError: the plugin cannot be loaded.
    """
    function = plugins.load(plugins.FORMULAS, name)
    entry = plugins.find(plugins.FORMULAS, name)
    if not callable(function):
        raise plugins.broken(
            plugins.FORMULAS, entry, TypeError(f"{type(function).__name__} is not callable")
        )
    summary = (getattr(function, "__doc__", None) or "").strip().partition("\n")[0]

    def reward(align: float, risk: float, detail: float) -> float:
        try:
            value = float(function(align, risk, detail))
        except Exception as error:
            raise ArithmeticError(f"{type(error).__name__}: {error}") from error
        if not 0 <= value <= 1:  # NaN fails every comparison
            raise ArithmeticError(f"{value:g} is outside 0 to 1")
        return value

    return Formula(name, summary or plugins.words(entry), reward)


def _weighted(weights: Mapping[str, float]) -> Formula:
    for name, weight in weights.items():
        if name not in AXES:
            raise UsageError(
                f"unknown axis {quoted(name)}", f"use weights.AXIS=NUMBER with {', '.join(AXES)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(
                f"weights.{name} is {weight:g}", f"set weights.{name} to a number of 0 or more"
            )
    align, risk, detail = (weights.get(axis, 1.0) for axis in AXES)
    total = align + risk + detail
    if total <= 0:
        raise UsageError("all weights are 0", f"set a weight above 0: weights.{AXES[0]}=1")
    description = f"({align:g}·align + {risk:g}·risk + {detail:g}·detail) / {HIGHEST * total:g}"

    def reward(a: float, r: float, d: float) -> float:
        return (align * a + risk * r + detail * d) / (HIGHEST * total)

    return Formula(WEIGHTED, description, reward)


# --- expressions --------------------------------------------------------------------------------

_TWO: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}
_COMPARED: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_CALLED: Mapping[str, tuple[int, Callable[[list[float]], float]]] = {
    "min": (0, min),
    "max": (0, max),
    "abs": (1, lambda values: abs(values[0])),
    "sqrt": (1, lambda values: math.sqrt(values[0])),
}
"""Each function's number of arguments (0: one or more) and its implementation."""


def _expression(text: str) -> Formula:
    allowed = (
        f"use a name ({', '.join(KNOWN)}), or an expression over align, risk and detail "
        "with + - * / **, < <= > >=, `a if b else c`, min, max, abs and sqrt"
    )
    if len(text) > LONGEST:
        raise UsageError(f"the formula is longer than {LONGEST} characters", allowed)
    try:
        evaluate = _part(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.args[0] if isinstance(error, _Refused) else "invalid syntax"
        raise UsageError(f"formula={quoted(text)}: {problem}", allowed) from None

    def reward(align: float, risk: float, detail: float) -> float:
        try:
            value = evaluate({"align": align, "risk": risk, "detail": detail})
        except ValueError as error:  # from math.sqrt and math.pow
            raise ArithmeticError(str(error)) from None
        if not math.isfinite(value):
            raise ArithmeticError("the result is not finite")
        return value

    return Formula(text, text, reward)


class _Refused(ValueError):
    """An expression has a part that is not allowed; the argument is the message."""


def _part(node: ast.expr) -> _Part:
    """Compile an expression to a function of the scores.

    Raises:
        _Refused: the expression contains anything that is not listed here.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _constant(value)
        case ast.Name(id=name) if name in AXES:
            return lambda values: values[name]
        case ast.Name(id=name):
            raise _Refused(f"unknown name {quoted(name)}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _part(operand)
            return lambda values: -inner(values)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _part(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            apply, first, second = _TWO[type(op)], _part(left), _part(right)
            return lambda values: apply(first(values), second(values))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, if_true, if_false = _part(test), _part(body), _part(orelse)
            return lambda values: if_true(values) if condition(values) else if_false(values)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
            compare, lhs, rhs = _COMPARED[type(op)], _part(left), _part(right)
            return lambda values: float(compare(lhs(values), rhs(values)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLED:
            return _called(name, args)
    raise _Refused(f"{quoted(ast.unparse(node))} is not allowed")


def _constant(value: float) -> _Part:
    try:
        number = float(value)
    except OverflowError:
        raise _Refused("a number is too large") from None
    return lambda values: number


def _called(name: str, args: list[ast.expr]) -> _Part:
    count, call = _CALLED[name]
    if not args or (count and len(args) != count):
        raise _Refused(f"{name} takes {count or 'one or more'} argument{'s' * (count != 1)}")
    evaluators = [_part(arg) for arg in args]
    return lambda values: call([evaluate(values) for evaluate in evaluators])
