"""Times of a run that was paused, stopped or killed, and resumed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ida_tui.events.state import RunState


class ResumedTimes(TypedDict):
    """Fields of `RunState` that a resume changes."""

    inactive_since: str
    inactive_s: float
    paused_s: float
    resumed_at: str


def resumed_times(state: RunState, time: str) -> ResumedTimes:
    """The times of a run that resumes at `time`: after a pause, an end, or a death without a last event."""
    since = state.inactive_since or state.updated_at
    inactive_s = max(0.0, seconds_between(since, time) or 0.0)
    if state.pause is not None and state.pause.by == "disk" and state.inactive_since:
        inactive_s = (
            0.0  # a notice follows with the seconds, because a full disk may not store the pause
        )
    is_pause = state.ended is None and bool(state.inactive_since)
    return {
        "inactive_since": "",
        "inactive_s": state.inactive_s + inactive_s,
        "paused_s": state.paused_s + (inactive_s if is_pause else 0.0),
        "resumed_at": time,
    }


def seconds_between(start: str, end: str) -> float | None:
    """Seconds between two times of records; None if one of them is missing."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None
