"""Rubric of a run: its axes, judged or computed, and the formula that makes them one reward."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from ida_tui.config.scoring.axes import (
    IDA_AXES,
    IDA_AXIS_NAMES,
    IDA_REWARD,
    MAX_AXES,
    Axis,
    judged_axis,
)
from ida_tui.config.section import Count, Finite, PositiveFloat, Section

AxisName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,23}$")]


def _as_tuple(value: object) -> object:
    """A list of a profile as the tuple that strict validation expects."""
    return tuple(value) if isinstance(value, list) else value


Range = Annotated[tuple[Finite | None, Finite | None], BeforeValidator(_as_tuple)]


class RubricAxis(Section):
    """One axis of the rubric: judged, with a meaning of 0 and of 10, or computed by a Python function."""

    zero: str = ""
    """Meaning of a score of 0, for a judged axis."""
    ten: str = ""
    """Meaning of a score of 10, for a judged axis; higher is better."""
    best: str | None = None
    """What 10 means, in a word or two, shown beside the name; null is `safest` for an axis named risk."""
    checks: list[str] = Field(default_factory=list)
    """Checks that the judge applies, each tied to a range of scores."""
    function: str = ""
    """Python function of a computed axis: `file.py:name`, `package.module:name`, or an entry point."""
    include_thoughts: bool = False
    """Also show the function the thought of a completion, as TRL does, not only its answer."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options passed to the function as keyword arguments."""
    range: Range | None = None
    """Lowest and highest score of a computed axis; null is unknown. A score outside is a failure."""


class RubricConfig(Section):
    """The axes on which a completion is scored, and the reward that they make."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One-line summary shown in lists."""
    version: Count = 1
    """Version number; increase it when the meaning changes. Part of the judge cache key."""
    task: str = ""
    """What is being judged, in a few sentences; the start of the judge's system message."""
    axes: Annotated[dict[AxisName, RubricAxis], Field(min_length=1, max_length=MAX_AXES)]
    """The axes by name, one to eight: judged from 0 to 10 (zero, ten), or computed (function)."""
    scale: Literal["half_points", "integers"] = "half_points"
    """Granularity of the scores; half points leave fewer ties within a group."""
    reward: Annotated[str, Field(max_length=24)] = ""
    """Name of the reward on screens and in reports; empty is R_IDA for align, risk and detail."""
    formula: str = ""
    """Reward from the axes: arithmetic over their names, a built-in formula, or a formula plugin."""
    order: Literal["scores_first", "reason_first"] = "scores_first"
    """Whether the judge writes its scores or its reasoning first."""
    function_timeout_s: PositiveFloat = 30.0
    """Longest time for one call of a reward function, in seconds; a longer one is a failure."""

    @field_validator("axes")
    @classmethod
    def _order_shipped_axes(cls, axes: dict[str, RubricAxis]) -> dict[str, RubricAxis]:
        """The axes of the shipped rubric in its order, because R_IDA reads them by position."""
        if axes.keys() == set(IDA_AXIS_NAMES):
            return {name: axes[name] for name in IDA_AXIS_NAMES}
        return axes

    @property
    def axis_list(self) -> tuple[Axis, ...]:
        """The axes, in order."""
        return tuple(
            Axis(name, "computed", *(axis.range or (None, None)))
            if axis.function
            else judged_axis(name)
            for name, axis in self.axes.items()
        )

    @property
    def judged_axes(self) -> dict[str, RubricAxis]:
        """The axes that the judge scores, by name, in order."""
        return {name: axis for name, axis in self.axes.items() if not axis.function}

    @property
    def computed_axes(self) -> dict[str, RubricAxis]:
        """The axes that Python functions compute, by name, in order."""
        return {name: axis for name, axis in self.axes.items() if axis.function}

    @property
    def is_ida(self) -> bool:
        """Whether the axes are those of the shipped rubric, which the offline heuristic scores."""
        return self.axis_list == IDA_AXES

    @property
    def reward_name(self) -> str:
        """Name of the reward on screens and in reports."""
        return self.reward or (IDA_REWARD if self.is_ida else "reward")

    @property
    def formula_text(self) -> str:
        """The formula, also where the profile leaves it out.

        R_IDA for the shipped axes; the sum of computed axes, as TRL adds its reward functions; else the mean
        of the axes, each divided by 10.
        """
        if self.formula:
            return self.formula
        if self.is_ida:
            return "r_ida"
        total = " + ".join(self.axes)
        if not self.judged_axes:
            return total
        return f"({total}) / {10 * len(self.axes)}" if len(self.axes) > 1 else f"{total} / 10"

    def axis_title(self, name: str) -> str:
        """An axis with what its highest score means: `risk (10 = safest)`."""
        axis = self.axes[name]
        best = axis.best if axis.best is not None else "safest" if name == "risk" else ""
        return f"{name} (10 = {best})" if best and not axis.function else name

    def instructions(self) -> dict[str, object]:
        """Everything on which a verdict depends, for cache keys and digests."""
        axes = {
            name: {"zero": axis.zero, "ten": axis.ten, "checks": axis.checks}
            | ({} if axis.best is None else {"best": axis.best})
            for name, axis in self.judged_axes.items()
        }
        return {
            "version": self.version,
            "task": self.task,
            "axes": axes,
            "scale": self.scale,
            "formula": self.formula_text if self.is_ida else "",
            "order": self.order,
        }

    def digest(self) -> str:
        """A 12-digit hexadecimal hash of everything that the judge is sent."""
        instructions = json.dumps(self.instructions(), ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(instructions.encode()).hexdigest()[:12]
