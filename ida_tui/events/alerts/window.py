"""What a rule looks at: the newest steps beside the first, as means over a window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.schema import AlertsConfig, Config
from ida_tui.events.state import RunState
from ida_tui.events.types import StepFinished
from ida_tui.util.statistics import mean_of

LEAST_COMPLETIONS = 8
"""Completions of a kind of which a share is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong."""

    evidence: str
    """What was seen, in figures, without a full stop."""
    advice: str
    """What to change, with the profile's keys."""


@dataclass(frozen=True, slots=True)
class Look:
    """A run after a step."""

    state: RunState
    config: Config
    recent: Sequence[StepFinished]
    """The newest steps; as many as the window has, or none while there are fewer."""
    first: Sequence[StepFinished]
    """As many at the start, before the recent ones; none while there are too few to compare."""

    @classmethod
    def at(cls, state: RunState, config: Config) -> Look:
        """The run as it is now. What another judge scored, and what came before that, is left out."""
        window, steps = config.alerts.window, state.steps
        start = bisect_right(
            steps.figures("step"), state.judged_since, key=lambda step: int(step or 0)
        )
        count = len(steps) - start
        return cls(
            state,
            config,
            recent=steps[-window:] if count >= window else (),
            first=steps[start : start + window] if count >= 2 * window else (),
        )

    @property
    def bounds(self) -> AlertsConfig:
        """The thresholds."""
        return self.config.alerts

    def now(self, figure: str) -> float | None:
        """Mean of a figure over the newest steps; None unless each of them has it."""
        return _mean(self.recent, figure)

    def then(self, figure: str) -> float | None:
        """Mean of a figure over the first steps; None unless each of them has it."""
        return _mean(self.first, figure)

    def rise(self, figure: str) -> float | None:
        """How much a figure's mean has risen since the start; None where that is not known."""
        before, after = self.then(figure), self.now(figure)
        return None if before is None or after is None else after - before

    @property
    def span(self) -> str:
        """The newest steps in words."""
        return f"the last {len(self.recent)} steps"


def share(steps: Sequence[StepFinished], part: str, whole: str) -> float | None:
    """A share over all completions of some steps; None where they are too few."""
    of = sum(getattr(step, whole) for step in steps)
    return sum(getattr(step, part) for step in steps) / of if of >= LEAST_COMPLETIONS else None


def _mean(steps: Sequence[StepFinished], figure: str) -> float | None:
    return mean_of([getattr(step, figure) for step in steps], least=len(steps)) if steps else None
