"""Probable cause of death of a run that ended without a RunEnded event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import psutil

from ida_tui.events.state import RunState
from ida_tui.events.types import MemorySampled

FULL_MEMORY_SHARE = 0.92
"""Share of used system memory from which lack of memory is the probable cause."""
SWAP_GROWTH_SHARE = 0.05
"""Growth of swap, as a share of system memory, from which lack of memory is the probable cause."""
CRITICAL_PRESSURE = 4


def likely_cause(state: RunState, boot_time: Callable[[], float] = psutil.boot_time) -> str:
    """The probable reason why a run without RunEnded has no process, as a clause.

    Args:
        state: the state of the run.
        boot_time: returns the boot time of the machine, in seconds since 1970.
    """
    if state.updated_at and datetime.fromisoformat(state.updated_at).timestamp() < boot_time():
        return "the machine has restarted since (power failure, crash or reboot)"
    sample = state.memory
    if sample is None or not _is_short_of_memory(sample):
        return "it was killed, or crashed in a library"
    # Only macOS reports memory pressure.
    system = "the system" if sample.pressure is None else "macOS"
    used, total = sample.system_used / 1e9, sample.system_total / 1e9
    return f"{system} probably killed it to free memory: {used:.1f} of {total:.1f} GB were in use"


def _is_short_of_memory(sample: MemorySampled) -> bool:
    return (
        sample.system_used >= FULL_MEMORY_SHARE * sample.system_total
        or sample.swap_growth >= SWAP_GROWTH_SHARE * sample.system_total
        or sample.pressure == CRITICAL_PRESSURE
    )
