"""Step window of the alert rules: means over the newest steps and over the first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ida_tui.config.schema import AlertsConfig, Config
from ida_tui.events.state import RunState
from ida_tui.events.types import StepFinished
from ida_tui.util.intervals import difference_interval
from ida_tui.util.statistics import mean_of_known

UPDATE_FIGURES = ("entropy", "kl")
"""Figures that every update has, also one that reuses completions; all others describe completions."""
MIN_COMPLETIONS = 8
"""Minimum number of completions for a share."""


@dataclass(frozen=True, slots=True)
class AlertFinding:
    """A problem found by an alert rule."""

    evidence: str
    """The figures that show the problem, without a trailing period."""
    advice: str
    """What to change, with the keys of the profile."""


@dataclass(frozen=True, slots=True)
class Window:
    """A run after a step, with its newest and its first steps."""

    state: RunState
    config: Config
    recent_steps: Sequence[StepFinished]
    """The newest steps, `alerts.window` of them; empty while there are fewer."""
    baseline_steps: Sequence[StepFinished]
    """The first steps, as many as `recent_steps` and without overlap; empty while there are too few."""
    recent_rollouts: Sequence[StepFinished]
    """The newest steps that generated completions, `alerts.window` of them; empty while there are fewer."""
    baseline_rollouts: Sequence[StepFinished]
    """The first such steps, without overlap; empty while there are too few."""

    @classmethod
    def from_state(cls, state: RunState, config: Config) -> Window:
        """The run in its current state; steps before the current scoring period are excluded."""
        window, steps = config.alerts.window, state.steps
        start = state.scoring_start
        count = len(steps) - start
        reused = steps.column("reused_step")
        rollouts = (n for n in range(start, len(steps)) if reused[n] is None)
        newest_rollouts = (n for n in range(len(steps) - 1, start - 1, -1) if reused[n] is None)
        first, last = list(islice(rollouts, window)), list(islice(newest_rollouts, window))[::-1]
        enough = len(last) == window
        return cls(
            state,
            config,
            recent_steps=steps[-window:] if count >= window else (),
            baseline_steps=steps[start : start + window] if count >= 2 * window else (),
            recent_rollouts=[steps[n] for n in last] if enough else (),
            baseline_rollouts=[steps[n] for n in first] if enough and first[-1] < last[0] else (),
        )

    @property
    def thresholds(self) -> AlertsConfig:
        """The thresholds of the profile."""
        return self.config.alerts

    def recent_mean(self, figure: str) -> float | None:
        """Mean of a figure over the newest steps; None unless every step has it."""
        steps = self.recent_steps if figure in UPDATE_FIGURES else self.recent_rollouts
        return _mean_of_figure(steps, figure)

    def baseline_mean(self, figure: str) -> float | None:
        """Mean of a figure over the first steps; None unless every step has it."""
        steps = self.baseline_steps if figure in UPDATE_FIGURES else self.baseline_rollouts
        return _mean_of_figure(steps, figure)

    def increase(self, figure: str) -> float | None:
        """Increase of a figure's mean since the first steps; None if unknown."""
        return _difference(self.baseline_mean(figure), self.recent_mean(figure))

    def recent_score(self, axis: str) -> float | None:
        """Mean score on an axis over the newest steps; None unless every step has it."""
        return _mean_score(self.recent_rollouts, axis)

    def baseline_score(self, axis: str) -> float | None:
        """Mean score on an axis over the first steps; None unless every step has it."""
        return _mean_score(self.baseline_rollouts, axis)

    def score_increase(self, axis: str) -> float | None:
        """Increase of the mean score on an axis since the first steps; None if unknown."""
        return _difference(self.baseline_score(axis), self.recent_score(axis))

    @property
    def span(self) -> str:
        """Text for the newest steps, such as `the last 20 steps`."""
        return f"the last {len(self.recent_steps)} steps"

    @property
    def rollout_span(self) -> str:
        """Text for the newest steps that generated completions."""
        kind = "steps" if self.recent_rollouts == list(self.recent_steps) else "rollouts"
        return f"the last {len(self.recent_rollouts)} {kind}"


def share(steps: Sequence[StepFinished], part: str, total: str) -> float | None:
    """A share over all completions of some steps; None if there are too few completions."""
    count: int = sum(getattr(step, total) for step in steps)
    if count < MIN_COMPLETIONS:
        return None
    matching: int = sum(getattr(step, part) for step in steps)
    return matching / count


def share_change(window: Window, part: str, total: str) -> tuple[float, float] | None:
    """A share in the first and in the newest steps; None if their difference may be chance."""
    before, after = (
        share(steps, part, total) for steps in (window.baseline_rollouts, window.recent_rollouts)
    )
    if before is None or after is None:
        return None
    counts = [
        sum(getattr(step, total) for step in steps)
        for steps in (window.baseline_rollouts, window.recent_rollouts)
    ]
    difference = difference_interval(before, counts[0], after, counts[1])
    return (before, after) if difference.excludes_zero else None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _mean_of_figure(steps: Sequence[StepFinished], figure: str) -> float | None:
    return _complete_mean([getattr(step, figure) for step in steps])


def _mean_score(steps: Sequence[StepFinished], axis: str) -> float | None:
    return _complete_mean([step.scores.get(axis) for step in steps])


def _complete_mean(values: Sequence[float | None]) -> float | None:
    return mean_of_known(values, minimum=len(values)) if values else None
