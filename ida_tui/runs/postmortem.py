"""Why a run that left no last word is gone, as far as its last samples tell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import psutil

from ida_tui.events.state import RunState
from ida_tui.events.types import MemorySampled

FULL = 0.92
"""Share of the machine's memory from which its end is put down to memory."""
SWAPPED = 0.05
"""Growth of swap, as a share of the machine's memory, that says the same."""
CRITICAL_PRESSURE = 4


def likely_cause(state: RunState, booted: Callable[[], float] = psutil.boot_time) -> str:
    """Who probably ended a run that has no RunEnded and no process, as half a sentence.

    Args:
        state: what is known of the run.
        booted: when the machine was started, in seconds since 1970.
    """
    if state.updated_at and datetime.fromisoformat(state.updated_at).timestamp() < booted():
        return "the machine was started anew since: the power went, or it crashed or was rebooted"
    sample = state.memory
    if sample is None or not _short(sample):
        return "it was killed, or crashed in a library"
    # Only macOS reports a pressure.
    system = "the system" if sample.pressure is None else "macOS"
    used, total = sample.system_used / 1e9, sample.system_total / 1e9
    return f"{system} probably killed it for memory: {used:.1f} of {total:.1f} GB were in use"


def _short(sample: MemorySampled) -> bool:
    return (
        sample.system_used >= FULL * sample.system_total
        or sample.swap_growth >= SWAPPED * sample.system_total
        or sample.pressure == CRITICAL_PRESSURE
    )
