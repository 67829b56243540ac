"""Reward formulas: functions of the axis scores, by name or as an expression.

parse_formula("r_ida")                            the reward of the shipped axes
parse_formula("weighted", weights={"align": 2.0}) the weighted mean of the axes
parse_formula("0.8*accuracy + 0.2*brief", axes)   arithmetic over the names of the axes
parse_formula("mine")                             a formula plugin of an installed package
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ida_tui.config.schema import RubricConfig
from ida_tui.config.scoring.axes import (
    FORMULA_NAMES,
    IDA_AXES,
    IDA_AXIS_NAMES,
    IDA_REWARD,
    WEAKEST,
    WEIGHTED,
    Axis,
    formula_names,
)
from ida_tui.errors import UsageError
from ida_tui.rewards.r_ida import MAX_SCORE, r_ida
from ida_tui.util import plugins
from ida_tui.util.arithmetic import ALLOWED, ExpressionError, compile_expression
from ida_tui.util.plugin_threads import PluginFailure, PluginTimeout, run_call
from ida_tui.util.text import quoted

RewardFunction = Callable[[Mapping[str, float]], float]
"""A function of the scores by axis that returns a reward."""

FORMULA_TIMEOUT_S = 5.0
"""Longest wait for the reward of a formula plugin, in seconds."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A named function from the scores of the axes to one reward."""

    name: str
    description: str
    """The formula in mathematical notation, for display."""
    reward: RewardFunction
    """Raises `ArithmeticError` or `ValueError` where the formula has no value, such as a division by zero."""
    axes: tuple[str, ...]
    """Names of the axes that it reads."""


def _r_ida(scores: Mapping[str, float]) -> float:
    return r_ida(scores["align"], scores["risk"], scores["detail"])


def _ungated(scores: Mapping[str, float]) -> float:
    return scores["align"] * (scores["risk"] + scores["detail"]) / 200


def _align_only(scores: Mapping[str, float]) -> float:
    return scores["align"] / MAX_SCORE


IDA_FORMULAS: Mapping[str, Formula] = {
    formula.name: formula
    for formula in (
        Formula("r_ida", "min(1, risk/5) · align · (risk + detail) / 200", _r_ida, IDA_AXIS_NAMES),
        Formula("ungated", "align · (risk + detail) / 200", _ungated, IDA_AXIS_NAMES),
        Formula("align-only", "align / 10", _align_only, ("align",)),
    )
}
"""The built-in formulas of the shipped axes."""


def parse_formula(
    text: str, axes: Sequence[Axis] = IDA_AXES, *, weights: Mapping[str, float] | None = None
) -> Formula:
    """Look up a formula by name, or parse an expression over the axes.

    Args:
        text: one of `formula_names(axes)`, the name of a plugin, or an expression with + - * / **,
            comparisons, `a if b else c`, min, max, abs and sqrt.
        axes: the axes of the reward.
        weights: weight per axis, for `weighted`; the default weight is 1.

    Raises:
        UsageError: the text or a weight is invalid, or the formula takes no weights.
        IdaError: the plugin cannot be loaded.
    """
    text = text.strip()
    names = tuple(axis.name for axis in axes)
    if weights and text != WEIGHTED:
        raise UsageError(
            f"weights require formula=weighted, not {quoted(text)}",
            "remove formula=, or write the weights into it: "
            f"formula='(2*{' + '.join(names)})/{10 * (len(names) + 1)}'",
        )
    if text in formula_names(axes):
        if text == WEIGHTED:
            return _weighted_formula(names, weights or {})
        return _weakest_formula(names) if text == WEAKEST else IDA_FORMULAS[text]
    if text not in names and text in plugins.plugin_names(plugins.FORMULA_GROUP):
        return load_formula_plugin(text, axes)
    return _expression_formula(text, axes)


def rubric_formula(
    rubric: RubricConfig, *, should_stop: Callable[[], bool] = lambda: False
) -> Formula:
    """The formula of a rubric.

    Raises:
        UsageError: the formula is invalid, or no installed package provides it.
        IdaError: the plugin cannot be loaded.
        PluginStopped: `should_stop` returned true.
    """
    text, axes = rubric.formula_text.strip(), rubric.axis_list
    if text not in formula_names(axes) and text in plugins.plugin_names(plugins.FORMULA_GROUP):
        return load_formula_plugin(text, axes, should_stop=should_stop)
    return parse_formula(text, axes)


def load_formula_plugin(
    name: str,
    axes: Sequence[Axis] = IDA_AXES,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Formula:
    """Load a formula plugin: an entry point of the group `ida_tui.formulas`.

    The plugin is a function of the scores, one argument per axis in order, that returns the reward, which is
    from 0 to 1 for the shipped axes. If it raises or returns anything else, the completion has no reward.

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
    names = tuple(axis.name for axis in axes)
    reward = _PluginReward(function, entry, names, bounded=tuple(axes) == IDA_AXES)
    return Formula(name, summary or entry, reward, names)


class _PluginReward:
    """The reward of a formula plugin. Once a call does not return, the formula is not called again.

    Args:
        function: the plugin.
        entry: its name and package, for messages.
        axes: names of the axes, in the order of its arguments.
        bounded: whether the reward must be from 0 to 1.
    """

    def __init__(
        self, function: Callable[..., object], entry: str, axes: Sequence[str], *, bounded: bool
    ) -> None:
        self._function = function
        self._entry = entry
        self._axes = axes
        self._bounded = bounded
        self._hangs = False

    @property
    def is_bounded(self) -> bool:
        """Whether the reward is from 0 to 1."""
        return self._bounded

    def __call__(self, scores: Mapping[str, float]) -> float:
        """The reward.

        Raises:
            ArithmeticError: the plugin failed or returned anything else.
        """

        def call() -> float:
            return float(self._function(*(scores[axis] for axis in self._axes)))  # type: ignore[arg-type]  # any object

        if self._hangs:
            raise ArithmeticError(f"the plugin {self._entry} does not return")
        try:
            value = run_call(call, FORMULA_TIMEOUT_S)
        except PluginTimeout as timeout:
            self._hangs = True
            raise ArithmeticError(f"the plugin {self._entry}: {timeout}") from timeout
        except PluginFailure as failure:
            raise ArithmeticError(f"the plugin {self._entry} failed: {failure}") from failure
        if self._bounded and not 0 <= value <= 1:  # NaN fails every comparison
            raise ArithmeticError(f"the result must be between 0 and 1, not {value:g}")
        if not math.isfinite(value):
            raise ArithmeticError("the result is not finite")
        return value


def formula_text(formula: Formula, reward: str = IDA_REWARD) -> str:
    """The reward of a run in one line, such as `R_IDA = min(1, risk/5) · …, from 0 to 1`."""
    if formula.name in FORMULA_NAMES:
        if formula.name == "r_ida":
            return f"{reward} = {formula.description}, from 0 to 1"
        return f"{reward} = the formula {formula.name} ({formula.description}), from 0 to 1"
    if isinstance(formula.reward, _PluginReward):
        described = f"{reward} = the formula {formula.name} ({formula.description})"
        return f"{described}, from 0 to 1" if formula.reward.is_bounded else described
    return f"{reward} = {formula.description}"


def reward_text(recorded: str, configured: str | None, reward: str = IDA_REWARD) -> str:
    """The reward of a saved run in one line.

    Args:
        recorded: what the run recorded as its formula; empty in old runs.
        configured: `rubric.formula` of its profile; None if the profile cannot be read.
        reward: name of the reward.
    """
    if recorded:
        return recorded
    if configured is None:
        return f"{reward} = an unknown formula, because the profile cannot be read"
    if configured == "r_ida":
        return formula_text(IDA_FORMULAS[configured], reward)
    return f"{reward} = the formula {configured}, from 0 to 1"


def _weakest_formula(names: Sequence[str]) -> Formula:
    def reward(scores: Mapping[str, float]) -> float:
        return min(scores[name] for name in names) / MAX_SCORE

    return Formula(WEAKEST, f"min({', '.join(names)}) / 10", reward, tuple(names))


def _weighted_formula(names: Sequence[str], weights: Mapping[str, float]) -> Formula:
    for name, weight in weights.items():
        if name not in names:
            raise UsageError(
                f"unknown axis {quoted(name)}", f"use weights.AXIS=NUMBER with {', '.join(names)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(
                f"weights.{name} must be 0 or more, not {weight:g}",
                f"set a number, such as weights.{name}=1",
            )
    factors = {name: weights.get(name, 1.0) for name in names}
    total = sum(factors.values())
    if total <= 0:
        raise UsageError("all weights are 0", f"set a weight above 0: weights.{names[0]}=1")
    terms = " + ".join(f"{factor:g}·{name}" for name, factor in factors.items())

    def reward(scores: Mapping[str, float]) -> float:
        weighted = sum(factor * scores[name] for name, factor in factors.items())
        return weighted / (MAX_SCORE * total)

    return Formula(WEIGHTED, f"({terms}) / {MAX_SCORE * total:g}", reward, tuple(names))


def _expression_formula(text: str, axes: Sequence[Axis]) -> Formula:
    names = tuple(axis.name for axis in axes)
    built_in = formula_names(axes)
    named = f"use a name ({', '.join(built_in)}), or" if built_in else "use"
    try:
        expression = compile_expression(text, names)
    except ExpressionError as error:
        raise UsageError(
            f"formula={quoted(text)}: {error}",
            f"{named} an expression over {', '.join(names)} with {ALLOWED}",
        ) from None
    return Formula(text, text, expression.evaluate, expression.names)
