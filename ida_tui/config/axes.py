"""Axes of a reward: name, source and range of each score that a completion gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ida_tui.util.format import UNKNOWN, format_number

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
    return UNKNOWN if score is None else f"{score:.3g}"


def judged_axis(name: str) -> Axis:
    """An axis that a judge scores from 0 to 10."""
    return Axis(name, "judged", *JUDGED_RANGE)


IDA_AXES = tuple(map(judged_axis, ("align", "risk", "detail")))
"""The axes of the shipped rubric; risk: 10 = safest."""
IDA_AXIS_NAMES = tuple(axis.name for axis in IDA_AXES)
IDA_REWARD = "R_IDA"
"""Name of the shipped reward."""


RESERVED_NAMES = frozenset(
    (
        "reward",
        "reason",
        "cost",
        "min",
        "max",
        "abs",
        "sqrt",
        "if",
        "else",
        "and",
        "or",
        "not",
        "is",
        "in",
    )
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
