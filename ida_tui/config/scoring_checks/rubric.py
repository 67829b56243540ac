"""Checks of a rubric: its axes, who scores them, and its formula over the scores that they can have."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config, RubricConfig
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES, RESERVED_NAMES, Axis, formula_names
from ida_tui.config.scoring.reward_files import (
    BUILT_IN_PARAMETERS,
    defined_names,
    display_reference,
    parse_reference,
    required_parameters,
)
from ida_tui.errors import UsageError
from ida_tui.util import plugins
from ida_tui.util.arithmetic import (
    ALLOWED,
    Expression,
    ExpressionError,
    compile_expression,
)
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.paths import display_path
from ida_tui.util.text import quoted


def check_rubric(config: Config) -> Iterator[Finding]:
    """All errors and notes about the axes and the formula of an experiment."""
    rubric = config.rubric
    for name, axis in rubric.axes.items():
        key = f"rubric.axes.{name}"
        if name.lower() in RESERVED_NAMES:
            yield error_finding(key, f"an axis cannot be named {name}", "choose another name")
        if axis.function:
            if axis.zero or axis.ten or axis.checks:
                yield error_finding(
                    key,
                    f"the axis {name} has a function and a description for a judge",
                    "keep function (computed), or zero and ten (judged)",
                )
            low, high = axis.range or (None, None)
            if low is not None and high is not None and low >= high:
                yield error_finding(
                    f"{key}.range",
                    f"the range from {low:g} to {high:g} is empty",
                    f"write the lowest score first: range: [{high:g}, {low:g}]",
                )
        elif not (axis.zero.strip() and axis.ten.strip()):
            yield error_finding(
                key,
                f"the axis {name} has no {'meaning of 10' if axis.zero.strip() else 'meaning of 0'}",
                f"write {name}: {{zero: meaning of 0, ten: meaning of 10}}, or function: FILE.py:NAME",
            )
        elif axis.range is not None or axis.options:
            extra = "range" if axis.range is not None else "options"
            yield error_finding(
                f"{key}.{extra}",
                f"only a computed axis has {extra}; a judged one is scored from 0 to 10",
                f"remove {extra}",
            )
    # Without the rows of a data file, its columns are unknown.
    columns = None
    if rubric.computed_axes and config.prompts.train():
        columns = config.prompts.column_names()
    for name, axis in rubric.computed_axes.items():
        known = None if columns is None else {*axis.options, *columns}
        yield from _check_function(f"rubric.axes.{name}.function", axis.function, known)
    if rubric.judged_axes:
        yield from _check_judged(config)
    yield from _check_formula(rubric)


def _check_function(key: str, reference: str, known: Collection[str] | None) -> Iterator[Finding]:
    """Whether a function exists and finds its columns, as far as it can be told without running its code.

    Args:
        key: the key that names the function.
        reference: the function.
        known: the names of its options and of the columns of the data; None if the data is not here.
    """
    try:
        parsed = parse_reference(reference)
        if parsed.kind == "entry point":
            plugins.find_plugin(plugins.REWARD_GROUP, reference)
        elif parsed.file is not None and not parsed.file.is_file():
            raise UsageError(
                f"there is no file {display_path(parsed.file)}",
                "check the path; it is relative to the file that names it, or the working directory",
            )
        elif parsed.file is not None and parsed.name not in (names := defined_names(parsed.file)):
            raise UsageError(
                f"{display_path(parsed.file)} has no function {quoted(parsed.name)}",
                f"it defines: {', '.join(names) or 'nothing'}",
            )
        elif parsed.file is not None and known is not None:
            for name in required_parameters(parsed.file, parsed.name):
                if name not in known and name not in BUILT_IN_PARAMETERS:
                    columns = ", ".join(sorted(known)) or "none"
                    raise UsageError(
                        f"{display_reference(reference)} needs the column {quoted(name)}, which the prompts"
                        " do not have",
                        f"add it to the data, or give it a default; columns: {columns}",
                    )
    except UsageError as error:
        yield error_finding(key, error.title, error.hint)


def _check_judged(config: Config) -> Iterator[Finding]:
    rubric = config.rubric
    if not rubric.task.strip():
        yield error_finding(
            "rubric.task",
            "the rubric does not tell the judge what it grades",
            "write rubric.task: a few sentences on what a good answer is",
        )
    offline = any(member.kind in ("offline", "none") for member in config.judge.members)
    if offline and rubric.judged_axes.keys() != set(IDA_AXIS_NAMES):
        names = ", ".join(rubric.judged_axes)
        yield error_finding(
            "judge",
            f"the offline judge scores only align, risk and detail, not {names}",
            "choose a judge with judge=NAME (ida-tui --list judges), or give the axes a function",
        )


def _check_formula(rubric: RubricConfig) -> Iterator[Finding]:
    text, axes = rubric.formula_text.strip(), rubric.axis_list
    names = tuple(axis.name for axis in axes)
    if text in formula_names(axes):
        return
    if text not in names and (
        text in plugins.plugin_names(plugins.FORMULA_GROUP) or _looks_like_a_name(text)
    ):
        try:
            plugins.find_plugin(plugins.FORMULA_GROUP, text)
        except UsageError as error:
            yield error_finding("rubric.formula", error.title, error.hint)
        return
    if not rubric.formula and rubric.judged_axes and rubric.computed_axes:
        yield error_finding(
            "rubric.formula",
            "judged and computed axes have different scales, so the rubric needs a formula",
            f"write rubric.formula, such as: {' + '.join(_normalized(axis) for axis in axes)}",
        )
        return
    try:
        expression = compile_expression(text, names)
    except ExpressionError as error:
        yield error_finding(
            "rubric.formula",
            f"formula={quoted(text)}: {error}",
            f"use an expression over {', '.join(names)} with {ALLOWED}",
        )
        return
    yield from _check_values(expression, axes)


def _check_values(expression: Expression, axes: Sequence[Axis]) -> Iterator[Finding]:
    values = expression_range(expression, axes)
    at = values.undefined and ", ".join(
        f"{name}={value:.3g}" for name, value in values.undefined.items()
    )
    if values.low is None:
        yield error_finding(
            "rubric.formula",
            f"the formula {quoted(expression.text)} has no value, for example where {at}",
            "check it for a division by 0 or the root of a negative number",
        )
    elif values.low == values.high:
        yield error_finding(
            "rubric.formula",
            f"the formula {quoted(expression.text)} is always {values.low:g}, so there is nothing to learn",
            "make it depend on the axes",
        )
    elif at:
        yield note_finding(
            "rubric.formula",
            f"the formula has no value where {at}; such a completion counts as a failure",
            "check it for a division by 0 or the root of a negative number",
        )
    unused = [axis.name for axis in axes if axis.name not in expression.names]
    if unused and values.low is not None:
        yield note_finding(
            "rubric.formula",
            f"the formula does not use {' and '.join(unused)}: shown, but not rewarded",
            "add it to the formula, or leave it as a figure to watch",
        )


def _looks_like_a_name(text: str) -> bool:
    return text.replace("-", "_").isidentifier()


def _normalized(axis: Axis) -> str:
    return f"{axis.name}/10" if axis.kind == "judged" else axis.name


@dataclass(frozen=True, slots=True)
class ExpressionRange:
    """Values of an expression over a sample of the scores that its axes can have."""

    low: float | None
    """Lowest value found; None if it has none."""
    high: float | None
    """Highest value found; None if it has none."""
    undefined: Mapping[str, float] | None
    """Scores for which it has no value; None if none were found."""


SAMPLED_SCORES = 300
"""Number of random score combinations that `expression_range` tries, besides the ends of the ranges."""


def expression_range(expression: Expression, axes: Sequence[Axis]) -> ExpressionRange:
    """Evaluate an expression at the ends of the axes' ranges and at random scores between them.

    An axis of unknown range is sampled from 0 to 1, or above or below its one known end.
    """
    low, high, undefined = math.inf, -math.inf, None
    for scores in _sampled_scores(axes):
        try:
            value = expression.evaluate(scores)
        except ArithmeticError:
            undefined = undefined or scores
            continue
        low, high = min(low, value), max(high, value)
    if low > high:
        return ExpressionRange(None, None, undefined)
    return ExpressionRange(low, high, undefined)


def _sampled_scores(axes: Sequence[Axis]) -> Iterator[dict[str, float]]:
    ranges = []
    for axis in axes:
        low = axis.low
        if low is None:
            low = 0.0 if axis.high is None else min(0.0, axis.high - 1)
        ranges.append((low, axis.high if axis.high is not None else max(1.0, low + 1)))
    names = [axis.name for axis in axes]
    for corner in itertools.product(*ranges):
        yield dict(zip(names, corner, strict=True))
    draw = random.Random(0)
    for _ in range(SAMPLED_SCORES):
        yield {
            name: draw.choice((low, (low + high) / 2, draw.uniform(low, high)))
            for name, (low, high) in zip(names, ranges, strict=True)
        }
