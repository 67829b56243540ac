"""Other ways to make one reward of the three axes, to ask afterwards what they would have paid.

    formula("r_ida")                                  the one that runs are trained with
    formula("weighted", {"align": 2.0})               the weighted mean of the axes
    formula("align * min(risk, detail) / 100")        arithmetic over align, risk and detail
    formula("mine")                                   one that an installed package offers under this name

An expression is parsed and walked here: it is never evaluated by Python.
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
"""From align, risk and detail, 0 to 10 each, to a reward."""
_Values = Mapping[str, float]
_Part = Callable[[_Values], float]

LONGEST = 300
"""Characters of an expression."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A way to make one reward of three scores."""

    name: str
    words: str
    """How it is computed, as a person writes it."""
    reward: Reward
    """Raises `ArithmeticError` where it has no value, such as a division by zero."""


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
"""The names; anything else is an expression."""


def formula(text: str, weights: Mapping[str, float] | None = None) -> Formula:
    """The formula of a name, or of an expression over align, risk and detail.

    Args:
        text: one of `KNOWN`, or arithmetic: + - * / **, comparisons, `a if b else c`, min, max, abs, sqrt.
        weights: of the axes, for `weighted`; an axis that is left out weighs 1.

    Raises:
        UsageError: it is neither, a weight is wrong, or there are weights and nothing is weighted.
        IdaError: it is another package's, and cannot be loaded.
    """
    text = text.strip()
    if weights and text != WEIGHTED:
        raise UsageError(
            f"weights go with formula=weighted, not with {quoted(text)}",
            "leave formula out, or write the weights into it: formula='(2*align + risk + detail)/40'",
        )
    if text == WEIGHTED:
        return _weighted(weights or {})
    if text in NAMED:
        return NAMED[text]
    if text not in AXES and text in plugins.names(plugins.FORMULAS):
        return installed(text)
    return _expression(text)


def installed(name: str) -> Formula:
    """A formula of another package: an entry point of the group ``ida_tui.formulas``.

    It is a function of align, risk and detail, 0 to 10 each, that returns the reward, 0 to 1. What it raises,
    and whatever else it returns, is no value: the completion has no reward.

    Raises:
        UsageError: no installed package offers it.
        IdaError: it cannot be loaded.
    """
    offered = plugins.load(plugins.FORMULAS, name)
    entry = plugins.find(plugins.FORMULAS, name)
    if not callable(offered):
        raise plugins.broken(
            plugins.FORMULAS, entry, TypeError(f"{type(offered).__name__} cannot be called")
        )
    about = (getattr(offered, "__doc__", None) or "").strip().partition("\n")[0]

    def reward(align: float, risk: float, detail: float) -> float:
        try:
            value = float(offered(align, risk, detail))
        except Exception as error:
            raise ArithmeticError(f"{type(error).__name__}: {error}") from error
        if not 0 <= value <= 1:  # nor is NaN
            raise ArithmeticError(f"{value:g} is not within 0 to 1")
        return value

    return Formula(name, about or plugins.words(entry), reward)


def _weighted(weights: Mapping[str, float]) -> Formula:
    for name, weight in weights.items():
        if name not in AXES:
            raise UsageError(
                f"there is no axis {quoted(name)}", f"weights.AXIS=NUMBER, of {', '.join(AXES)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"weights.{name} is {weight:g}", "a weight is 0 or more")
    align, risk, detail = (weights.get(axis, 1.0) for axis in AXES)
    whole = align + risk + detail
    if whole <= 0:
        raise UsageError("every weight is 0", f"give one axis a weight: weights.{AXES[0]}=1")
    words = f"({align:g}·align + {risk:g}·risk + {detail:g}·detail) / {HIGHEST * whole:g}"

    def reward(a: float, r: float, d: float) -> float:
        return (align * a + risk * r + detail * d) / (HIGHEST * whole)

    return Formula(WEIGHTED, words, reward)


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
"""How many values each takes, 0 for one or more, and what it makes of them."""


def _expression(text: str) -> Formula:
    allowed = (
        f"give a name ({', '.join(KNOWN)}), or arithmetic over align, risk and detail "
        "with + - * / **, < <= > >=, `a if b else c`, min, max, abs and sqrt"
    )
    if len(text) > LONGEST:
        raise UsageError(f"the formula is longer than {LONGEST} characters", allowed)
    try:
        part = _part(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.args[0] if isinstance(error, _Refused) else "it cannot be read"
        raise UsageError(f"formula={quoted(text)}: {why}", allowed) from None

    def reward(align: float, risk: float, detail: float) -> float:
        try:
            value = part({"align": align, "risk": risk, "detail": detail})
        except ValueError as error:  # as math.sqrt has it
            raise ArithmeticError(str(error)) from None
        if not math.isfinite(value):
            raise ArithmeticError("no finite number")
        return value

    return Formula(text, text, reward)


class _Refused(ValueError):
    """A part of an expression that is not allowed; its argument says which."""


def _part(node: ast.expr) -> _Part:
    """One part of an expression as a function of the scores; whatever is not listed here is refused."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _constant(value)
        case ast.Name(id=name) if name in AXES:
            return lambda values: values[name]
        case ast.Name(id=name):
            raise _Refused(f"there is no {quoted(name)} in it")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _part(operand)
            return lambda values: -inner(values)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _part(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            apply, one, other = _TWO[type(op)], _part(left), _part(right)
            return lambda values: apply(one(values), other(values))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, then, otherwise = _part(test), _part(body), _part(orelse)
            return lambda values: then(values) if asked(values) else otherwise(values)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
            compare, low, high = _COMPARED[type(op)], _part(left), _part(right)
            return lambda values: float(compare(low(values), high(values)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLED:
            return _called(name, args)
    raise _Refused(f"{quoted(ast.unparse(node))} is not allowed in it")


def _constant(value: float) -> _Part:
    try:
        number = float(value)
    except OverflowError:
        raise _Refused("a number in it is too large") from None
    return lambda values: number


def _called(name: str, args: list[ast.expr]) -> _Part:
    count, call = _CALLED[name]
    if not args or (count and len(args) != count):
        raise _Refused(f"{name} takes {count or 'one or more'} value{'s' * (count != 1)}")
    parts = [_part(arg) for arg in args]
    return lambda values: call([part(values) for part in parts])
