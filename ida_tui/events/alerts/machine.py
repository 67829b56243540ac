"""Will the machine hold out? Memory that grows step by step."""

from __future__ import annotations

from statistics import fmean, median

from ida_tui.events.alerts.window import Finding, Look
from ida_tui.events.state import STEP_PEAKS
from ida_tui.util.statistics import slope

SETTLED = 10
"""Steps at the start whose memory still fills caches of shapes."""
LEAST = 20
"""Steps over which a trend is a trend."""


def memory_trend(look: Look) -> Finding | None:
    """The peaks of the steps grow at a rate that reaches the limit before the run's end."""
    state, run = look.state, look.state.run
    peaks = state.step_peaks[-STEP_PEAKS:]
    if run is None or len(state.steps) < SETTLED + LEAST or len(peaks) < LEAST:
        return None
    peaks = peaks[-min(len(peaks), len(state.steps) - SETTLED) :]
    thirds = [median(part) for part in _thirds(peaks)]
    a_step, limit = slope([float(peak) for peak in peaks]), run.limit_gb * 1e9
    left = state.steps[-1].steps - state.steps[-1].step
    room = limit - fmean(peaks[-3:])
    if not thirds[0] < thirds[1] < thirds[2] or a_step <= 0 or a_step * left < room:
        return None
    if thirds[2] - thirds[0] < 0.01 * limit:
        return None
    return Finding(
        f"memory grows by {a_step / 1e6:.0f} MB a step: {peaks[-1] / 1e9:.1f} GB now, and the limit of"
        f" {run.limit_gb:.0f} GB in about {max(0.0, room) / a_step:.0f} steps, with {left} to go",
        "set training.save_steps so that little is lost; fixed lengths (training.max_completion_length) and"
        " training.token_budget keep the allocator from growing",
    )


def _thirds(values: tuple[int, ...]) -> list[tuple[int, ...]]:
    size = len(values) // 3
    return [values[:size], values[size : 2 * size], values[2 * size :]]
