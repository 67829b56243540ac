"""Reward formulas: functions of align, risk and detail, by name or as an expression.

    parse_formula("r_ida")                            the default reward of a run
    parse_formula("weighted", {"align": 2.0})         the weighted mean of the axes
    parse_formula("align * min(risk, detail) / 100")  arithmetic over align, risk and detail
    parse_formula("mine")                             a formula plugin of an installed package

An expression is compiled here from its syntax tree; Python's eval is never used.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ida_tui.config.schema import AXES
from ida_tui.errors import UsageError
from ida_tui.rewards.r_ida import MAX_SCORE, r_ida
from ida_tui.util import plugins
from ida_tui.util.plugin_threads import PluginFailure, PluginTimeout, run_call
from ida_tui.util.text import quoted

RewardFunction = Callable[[float, float, float], float]
"""A function of align, risk and detail, 0 to 10 each, that returns a reward."""
_AxisScores = Mapping[str, float]
_Evaluator = Callable[[_AxisScores], float]

MAX_EXPRESSION_CHARS = 300
"""Maximum length of an expression, in characters."""


FORMULA_TIMEOUT_S = 5.0
"""Longest wait for the reward of a formula plugin, in seconds."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A named function from three axis scores to one reward."""

    name: str
    description: str
    """The formula in mathematical notation, for display."""
    reward: RewardFunction
    """Raises `ArithmeticError` where the formula has no value, such as a division by zero."""


def _ungated(align: float, risk: float, detail: float) -> float:
    return align * (risk + detail) / 200


def _align_only(align: float, risk: float, detail: float) -> float:
    return align / MAX_SCORE


def _weakest(align: float, risk: float, detail: float) -> float:
    return min(align, risk, detail) / MAX_SCORE


BUILT_IN_FORMULAS: Mapping[str, Formula] = {
    formula.name: formula
    for formula in (
        Formula("r_ida", "min(1, risk/5) · align · (risk + detail) / 200", r_ida),
        Formula("ungated", "align · (risk + detail) / 200", _ungated),
        Formula("align-only", "align / 10", _align_only),
        Formula("weakest", "min(align, risk, detail) / 10", _weakest),
    )
}
WEIGHTED = "weighted"
FORMULA_NAMES = (*BUILT_IN_FORMULAS, WEIGHTED)
"""Names of the built-in formulas."""


def parse_formula(text: str, weights: Mapping[str, float] | None = None) -> Formula:
    """Look up a formula by name, or parse an expression over align, risk and detail.

    Args:
        text: one of `FORMULA_NAMES`, the name of a plugin, or an expression with + - * / **, comparisons,
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
        return _weighted_formula(weights or {})
    if text in BUILT_IN_FORMULAS:
        return BUILT_IN_FORMULAS[text]
    if text not in AXES and text in plugins.plugin_names(plugins.FORMULA_GROUP):
        return load_formula_plugin(text)
    return _expression_formula(text)


def load_formula_plugin(name: str, *, should_stop: Callable[[], bool] = lambda: False) -> Formula:
    """Load a formula plugin: an entry point of the group `ida_tui.formulas`.

    The plugin is a function of align, risk and detail, 0 to 10 each, that returns the reward, 0 to 1. If it
    raises or returns anything else, the completion has no reward.

    Raises:
        UsageError: no installed package provides the formula.
        IdaError: the plugin cannot be loaded.
        PluginStopped: `should_stop` returned true.
    """

    def build(plugin: object) -> tuple[Callable[..., object], str]:
        if not callable(plugin):
            raise TypeError(f"{type(plugin).__name__} is not callable")
        documentation = getattr(plugin, "__doc__", None)
        return plugin, documentation if isinstance(documentation, str) else ""

    function, documentation = plugins.load_plugin(
        plugins.FORMULA_GROUP, name, build, should_stop=should_stop
    )
    entry = plugins.describe_plugin(plugins.find_plugin(plugins.FORMULA_GROUP, name))
    summary = documentation.strip().partition("\n")[0]
    return Formula(name, summary or entry, _PluginReward(function, entry))


class _PluginReward:
    """The reward of a formula plugin. Once a call does not return, the formula is not called again.

    Args:
        function: the plugin.
        entry: its name and package, for messages.
    """

    def __init__(self, function: Callable[..., object], entry: str) -> None:
        self._function = function
        self._entry = entry
        self._hangs = False

    def __call__(self, align: float, risk: float, detail: float) -> float:
        """The reward, 0 to 1.

        Raises:
            ArithmeticError: the plugin failed or returned anything else.
        """

        def call() -> float:
            return float(self._function(align, risk, detail))  # type: ignore[arg-type]  # any object

        if self._hangs:
            raise ArithmeticError(f"the plugin {self._entry} does not return")
        try:
            value = run_call(call, FORMULA_TIMEOUT_S)
        except PluginTimeout as timeout:
            self._hangs = True
            raise ArithmeticError(f"the plugin {self._entry}: {timeout}") from timeout
        except PluginFailure as failure:
            raise ArithmeticError(f"the plugin {self._entry} failed: {failure}") from failure
        if not 0 <= value <= 1:  # NaN fails every comparison
            raise ArithmeticError(f"the result must be between 0 and 1, not {value:g}")
        return value


def formula_text(formula: Formula | None = None) -> str:
    """The reward of a run in one line; None is R_IDA itself, and another formula is shown as R_IDA."""
    if formula is None:
        return f"R_IDA = {BUILT_IN_FORMULAS['r_ida'].description}, from 0 to 1"
    return f"R_IDA = the formula {formula.name} ({formula.description}), from 0 to 1"


def reward_text(recorded: str, configured: str | None) -> str:
    """The reward of a saved run in one line.

    Args:
        recorded: what the run recorded as its formula; empty in old runs.
        configured: `rubric.formula` of its profile; None if the profile cannot be read.
    """
    if recorded:
        return recorded
    if configured is None:
        return "R_IDA = an unknown formula, because the profile cannot be read"
    return (
        formula_text()
        if configured == "r_ida"
        else f"R_IDA = the formula {configured}, from 0 to 1"
    )


def _weighted_formula(weights: Mapping[str, float]) -> Formula:
    for name, weight in weights.items():
        if name not in AXES:
            raise UsageError(
                f"unknown axis {quoted(name)}", f"use weights.AXIS=NUMBER with {', '.join(AXES)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(
                f"weights.{name} must be 0 or more, not {weight:g}",
                f"set a number, such as weights.{name}=1",
            )
    align, risk, detail = (weights.get(axis, 1.0) for axis in AXES)
    total = align + risk + detail
    if total <= 0:
        raise UsageError("all weights are 0", f"set a weight above 0: weights.{AXES[0]}=1")
    description = f"({align:g}·align + {risk:g}·risk + {detail:g}·detail) / {MAX_SCORE * total:g}"

    def reward(a: float, r: float, d: float) -> float:
        return (align * a + risk * r + detail * d) / (MAX_SCORE * total)

    return Formula(WEIGHTED, description, reward)


# --- expressions --------------------------------------------------------------------------------

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


def _expression_formula(text: str) -> Formula:
    allowed = (
        f"use a name ({', '.join(FORMULA_NAMES)}), or an expression over align, risk and detail "
        "with + - * / **, < <= > >=, `a if b else c`, min, max, abs and sqrt"
    )
    if len(text) > MAX_EXPRESSION_CHARS:
        raise UsageError(f"the formula is longer than {MAX_EXPRESSION_CHARS} characters", allowed)
    try:
        evaluate = _compile(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.args[0] if isinstance(error, _DisallowedExpression) else "invalid syntax"
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


class _DisallowedExpression(ValueError):
    """An expression has a part that is not allowed; the argument is the message."""


def _compile(node: ast.expr) -> _Evaluator:
    """Compile an expression to a function of the scores.

    Raises:
        _DisallowedExpression: the expression contains anything that is not listed here.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _compile_constant(value)
        case ast.Name(id=name) if name in AXES:
            return lambda values: values[name]
        case ast.Name(id=name):
            raise _DisallowedExpression(f"unknown name {quoted(name)}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _compile(operand)
            return lambda values: -inner(values)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _compile(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY_OPERATORS:
            apply, first, second = _BINARY_OPERATORS[type(op)], _compile(left), _compile(right)
            return lambda values: apply(first(values), second(values))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, if_true, if_false = _compile(test), _compile(body), _compile(orelse)
            return lambda values: if_true(values) if condition(values) else if_false(values)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            compare, lhs, rhs = _COMPARISONS[type(op)], _compile(left), _compile(right)
            return lambda values: float(compare(lhs(values), rhs(values)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _compile_call(name, args)
    raise _DisallowedExpression(f"{quoted(ast.unparse(node))} is not allowed")


def _compile_constant(value: float) -> _Evaluator:
    try:
        number = float(value)
    except OverflowError:
        raise _DisallowedExpression("a number is too large") from None
    return lambda values: number


def _compile_call(name: str, args: list[ast.expr]) -> _Evaluator:
    count, call = _FUNCTIONS[name]
    if not args or (count and len(args) != count):
        raise _DisallowedExpression(
            f"{name} takes {count or 'one or more'} argument{'s' * (count != 1)}"
        )
    evaluators = [_compile(arg) for arg in args]
    return lambda values: call([evaluate(values) for evaluate in evaluators])
