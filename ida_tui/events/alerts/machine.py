"""Alert rule for memory that grows from step to step."""

from __future__ import annotations

from statistics import fmean, median

from ida_tui.events.alerts.window import AlertFinding, Window
from ida_tui.events.state import MAX_STEP_PEAKS
from ida_tui.util.statistics import slope

WARMUP_STEPS = 10
"""Steps at the start that are ignored, because caches still grow with every new tensor shape."""
MIN_TREND_STEPS = 20
"""Minimum number of steps for a trend."""


def memory_trend(window: Window) -> AlertFinding | None:
    """The memory peak per step grows fast enough to reach the limit before the run ends."""
    state, run = window.state, window.state.run
    peaks = state.step_peaks[-MAX_STEP_PEAKS:]
    if (
        run is None
        or len(state.steps) < WARMUP_STEPS + MIN_TREND_STEPS
        or len(peaks) < MIN_TREND_STEPS
    ):
        return None
    peaks = peaks[-min(len(peaks), len(state.steps) - WARMUP_STEPS) :]
    thirds = [median(part) for part in _split_in_thirds(peaks)]
    growth, limit = slope([float(peak) for peak in peaks]), run.limit_gb * 1e9
    steps_left = state.steps[-1].steps - state.steps[-1].step
    available = limit - fmean(peaks[-3:])
    if not thirds[0] < thirds[1] < thirds[2] or growth <= 0 or growth * steps_left < available:
        return None
    if thirds[2] - thirds[0] < 0.01 * limit:
        return None
    return AlertFinding(
        f"memory grows by {growth / 1e6:.0f} MB per step: {peaks[-1] / 1e9:.1f} GB now; it reaches the limit"
        f" of {run.limit_gb:.0f} GB in about {max(0.0, available) / growth:.0f} steps, with"
        f" {steps_left} to go",
        "set training.save_steps to lose less if the run is killed; lower training.max_completion_length or"
        " set training.token_budget to limit the growth",
    )


def _split_in_thirds(values: tuple[int, ...]) -> list[tuple[int, ...]]:
    size = len(values) // 3
    return [values[:size], values[size : 2 * size], values[2 * size :]]
