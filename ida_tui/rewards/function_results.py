"""Results of reward functions, read into one score or failure per completion and axis.

A result may be an object of any class, whose conversion to a number runs code of the person. It is read in
the thread of the function, under the function's time limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import cast

from ida_tui.config.scoring.axes import Axis
from ida_tui.rewards.signature import FunctionForm
from ida_tui.util.format import format_count
from ida_tui.util.plugin_threads import PluginFailure
from ida_tui.util.text import quoted

AxisScores = Mapping[str, float | PluginFailure]
"""The score of one completion on each axis of a function, or why it has none."""


def read_results(
    outcome: object, rows: int, form: FunctionForm, axes: Sequence[Axis]
) -> list[AxisScores]:
    """The scores of some completions, from what a function returned for them.

    Args:
        outcome: the result, or a `PluginFailure`.
        rows: number of the completions.
        form: form of the function.
        axes: the axes that the function computes.
    """
    return [_read_axes(result, axes) for result in _split_result(outcome, rows, form)]


def _split_result(outcome: object, rows: int, form: FunctionForm) -> list[object]:
    """What a function returned for each row; failures if it is not a list of their length."""
    if isinstance(outcome, PluginFailure):
        return [outcome] * rows
    if form == "single":
        return [outcome]
    kind = type(outcome).__name__
    if isinstance(outcome, str | bytes | Mapping | AbstractSet) or not isinstance(
        outcome, Iterable
    ):
        return [
            PluginFailure(f"it returned {kind} instead of a list of {format_count(rows, 'score')}")
        ] * rows
    try:
        length = len(outcome) if isinstance(outcome, Sized) else None
        results = list(islice(cast("Iterable[object]", outcome), rows + 1))
    except BaseException as error:  # raised by a class of the person, such as SystemExit
        text = f"its result ({kind}) cannot be read: {type(error).__name__}"
        return [PluginFailure(text)] * rows
    if len(results) != rows or length not in (rows, None):
        found = len(results) if length is None else length
        text = f"it returned {format_count(found, 'score')} for {format_count(rows, 'completion')}"
        if length is None and len(results) > rows:
            text = f"it returned more than {format_count(rows, 'score')} for as many completions"
        return [PluginFailure(text)] * rows
    return results


def _read_axes(result: object, axes: Sequence[Axis]) -> AxisScores:
    scores: dict[str, float | PluginFailure] = {}
    for axis in axes:
        try:
            scores[axis.name] = _read_score(result, axis, len(axes))
        except PluginFailure as failure:
            scores[axis.name] = failure
        except BaseException as error:  # raised by a class of the person
            scores[axis.name] = PluginFailure(f"its result cannot be read: {type(error).__name__}")
    return scores


def _read_score(result: object, axis: Axis, shared: int) -> float:
    """The score on an axis.

    Raises:
        PluginFailure: there is none; the text says why.
    """
    if isinstance(result, PluginFailure):
        raise result
    if isinstance(result, Mapping):
        if axis.name not in result:
            raise PluginFailure(f"it returned no {quoted(axis.name)}")
        result = result[axis.name]
    elif result is not None and shared > 1:
        raise PluginFailure(
            "a function of several axes must return a dict with a score for each,"
            f" not {type(result).__name__}"
        )
    if result is None:
        raise PluginFailure("it returned None")
    if isinstance(result, str | bytes | bytearray):
        raise PluginFailure(f"it returned {type(result).__name__} instead of a number")
    try:
        score = float(result)  # type: ignore[arg-type]  # also numbers of numpy and torch
    except Exception:
        raise PluginFailure(f"it returned {type(result).__name__} instead of a number") from None
    if not math.isfinite(score):
        raise PluginFailure(f"it returned {score}")
    if not axis.contains(score):
        low = "−∞" if axis.low is None else f"{axis.low:g}"
        high = "∞" if axis.high is None else f"{axis.high:g}"
        raise PluginFailure(f"{score:g} is outside of the range from {low} to {high}")
    return score
