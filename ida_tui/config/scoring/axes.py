"""Axes of a reward: name, source and range of each score that a completion gets."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from ida_tui.util.format import format_number, format_significant

AxisKind = Literal["judged", "computed"]
Scores = Mapping[str, float | None]
"""A score per axis, by name and in order; None where the judge or the function failed."""

MAX_AXES = 8
"""Largest number of axes of a rubric."""
JUDGED_RANGE = (0.0, 10.0)
"""Range of every judged axis."""


class Axis(NamedTuple):
    """One axis of a reward; a list in JSON."""

    name: str
    kind: AxisKind
    """`judged`: the judge scores it; `computed`: a Python function returns it."""
    low: float | None
    """Lowest possible score; null if unknown."""
    high: float | None
    """Highest possible score; null if unknown."""

    @property
    def span(self) -> float:
        """Difference of its highest and its lowest score; 1 if unknown."""
        if self.low is None or self.high is None or self.high <= self.low:
            return 1.0
        return self.high - self.low

    def contains(self, score: float) -> bool:
        """Whether a score is in the range of the axis; false for NaN and infinity."""
        if not math.isfinite(score):
            return False
        return (self.low is None or score >= self.low) and (self.high is None or score <= self.high)


def format_score(score: float | None, axis: Axis) -> str:
    """A score: one decimal on a scale from 0 to 10, else three significant digits; a dash for None."""
    if axis.kind == "judged":
        return format_number(score, 1)
    return format_significant(score)


def axis_title(name: str) -> str:
    """An axis with what its highest score means, where the name alone misleads: `risk (10 is safest)`."""
    return "risk (10 is safest)" if name == "risk" else name


def display_scale(values: Iterable[float | None], axis: Axis | None = None) -> tuple[float, float]:
    """Lowest and highest value of a plot: the range of the axis, or 0 to 1 and as far as the values reach.

    Args:
        values: the values to show.
        axis: the axis of the values; None is the reward.
    """
    if axis is not None and axis.low is not None and axis.high is not None:
        return axis.low, axis.high if axis.high > axis.low else axis.low + 1
    known = [value for value in values if value is not None]
    low = (
        axis.low
        if axis is not None and axis.low is not None
        else 0.0 - _round_up(-min([0.0, *known]))
    )
    high = (
        axis.high if axis is not None and axis.high is not None else _round_up(max([1.0, *known]))
    )
    return low, high if high > low else low + 1


def _round_up(value: float) -> float:
    """The next larger number with two significant digits; 0 for a number below a millionth."""
    if value < 1e-6:
        return 0.0
    digits = 1 - math.floor(math.log10(value))
    factor: float = 10.0**digits
    return math.ceil(round(value * factor, 6)) / factor


def judged_axis(name: str) -> Axis:
    """An axis that a judge scores from 0 to 10."""
    return Axis(name, "judged", *JUDGED_RANGE)


IDA_AXES = tuple(map(judged_axis, ("align", "risk", "detail")))
"""The axes of the shipped rubric; risk: 10 = safest."""
IDA_AXIS_NAMES = tuple(axis.name for axis in IDA_AXES)
IDA_REWARD = "R_IDA"
"""Name of the shipped reward."""


RESERVED_NAMES = frozenset(
    ("reward", "reason", "cost", "min", "max", "abs", "sqrt", *map(str.lower, keyword.kwlist))
)
"""Names that an axis cannot have, in lower case."""
IDA_FORMULAS = ("r_ida", "ungated", "align-only")
"""Names of the built-in formulas that only the shipped axes have."""
WEAKEST = "weakest"
WEIGHTED = "weighted"
FORMULA_NAMES = (*IDA_FORMULAS, WEAKEST, WEIGHTED)
"""Names of all built-in formulas; `ida_tui.rewards.formulas` has their definitions."""


def formula_names(axes: Sequence[Axis]) -> tuple[str, ...]:
    """Names of the built-in formulas of these axes."""
    if tuple(axes) == IDA_AXES:
        return FORMULA_NAMES
    return (WEAKEST, WEIGHTED) if all(axis.kind == "judged" for axis in axes) else ()
