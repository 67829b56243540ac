"""Ends a run, with its checkpoint, before the machine swaps or the system kills it."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

from ida_tui.events.types import Event, MemorySampled, Noticed
from ida_tui.system import procfs
from ida_tui.system.memory_limit import room

WARN, ACT = 0.85, 0.95
"""Shares of the limit: from the first the log says so, at the second the run is ended."""
SWAP = 0.05
"""Growth of swap since the start, as a share of the limit, that ends the run."""
RESERVE = 0.97
"""Share of what a control group has left that may be allocated; the rest is for page tables and files."""
CRITICAL_PRESSURE = 4
"""macOS's memory pressure level at which it begins to kill."""


class Guard:
    """Looks at every sample of memory.

    Args:
        limit: bytes to stay under.
        emit: takes what the log should say.
        stop: set when the run has to end.
    """

    def __init__(
        self, limit: float, emit: Callable[[Event], object], stop: threading.Event
    ) -> None:
        self._limit = limit
        self._emit = emit
        self._stop = stop
        self._warned = False
        self.reason = ""
        """Why the guard has ended the run; empty while it has not."""

    def look(self, sample: MemorySampled) -> None:
        """Warn or end the run, each at most once."""
        if self.reason:
            return
        share = sample.system_used / self._limit
        if share >= ACT or self._swapped(sample) or sample.pressure == CRITICAL_PRESSURE:
            self.reason = self._why(sample, share)
            self._emit(Noticed(level="warning", source="memory", text=f"{self.reason}: stopping"))
            self._stop.set()
        elif share >= WARN and not self._warned:
            self._warned = True
            text = f"memory is at {share:.0%} of the limit; at {ACT:.0%} the run is stopped"
            self._emit(Noticed(level="warning", source="memory", text=text))

    def _swapped(self, sample: MemorySampled) -> bool:
        return sample.swap_growth >= SWAP * self._limit

    def _why(self, sample: MemorySampled, share: float) -> str:
        if share >= ACT:
            used, limit = sample.system_used / 1e9, self._limit / 1e9
            return f"memory reached {share:.0%} of the limit ({used:.1f} of {limit:.1f} GB)"
        if self._swapped(sample):
            return f"the machine began to swap ({sample.swap_growth / 1e9:.1f} GB)"
        return "macOS reports critical memory pressure"


class AllocationCap:
    """Makes an allocation fail that a control group would kill the process for.

    The kernel ends a process that goes beyond its group's limit without a word, between two looks of the
    guard. Under such a limit the process's own (`RLIMIT_DATA`) is set to what it has mapped plus what the
    group has left: the allocation raises, the run is saved and ends with 4. A native library may crash there
    all the same, which is why a run over its plan saves every step (`preflight`). On a bare machine nothing
    is set.
    """

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def set(self) -> None:
        """Cap this process, if it is in a group that would kill it."""
        here, mapped = room(), procfs.status("VmData")
        if not here.capped or mapped is None:
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = mapped + int(RESERVE * max(0, here.total - here.used))
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
            self._before = soft, hard

    def lift(self) -> None:
        """As it was before: what is freed on the way out may be used to write the checkpoint."""
        if self._before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, self._before)
            self._before = None
