"""Memory guard: stops a run, with a checkpoint, before the machine swaps or the system kills the process."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

from ida_tui.events.types import Event, MemorySampled, Noticed
from ida_tui.system.memory_limit import memory_limit, status_bytes

WARN_SHARE, STOP_SHARE = 0.85, 0.95
"""Shares of the limit: at the first the log warns, at the second the run is stopped."""
SWAP_SHARE = 0.05
"""Growth of swap since the start, as a share of the limit, that stops the run."""
ALLOCATABLE_SHARE = 0.97
"""Share of a control group's free memory that may be allocated; the rest is for page tables and files."""
CRITICAL_PRESSURE = 4
"""Memory pressure level at which macOS begins to kill processes."""


class MemoryGuard:
    """Checks every memory sample against a limit.

    Args:
        limit: the limit, in bytes.
        emit: receives the warnings for the log.
        stop: set when the run has to stop.
    """

    def __init__(
        self, limit: float, emit: Callable[[Event], object], stop: threading.Event
    ) -> None:
        self._limit = limit
        self._emit = emit
        self._stop = stop
        self._warned = False
        self.reason = ""
        """Why the guard stopped the run; empty if it did not."""

    def check(self, sample: MemorySampled) -> None:
        """Warn or stop the run, each at most once."""
        if self.reason:
            return
        share = sample.system_used / self._limit
        if share >= STOP_SHARE or self._is_swapping(sample) or sample.pressure == CRITICAL_PRESSURE:
            self.reason = self._stop_reason(sample, share)
            self._emit(
                Noticed(level="warning", source="memory", text=f"{self.reason}; stopping the run")
            )
            self._stop.set()
        elif share >= WARN_SHARE and not self._warned:
            self._warned = True
            text = f"memory is at {share:.0%} of the limit; the run stops at {STOP_SHARE:.0%}"
            self._emit(Noticed(level="warning", source="memory", text=text))

    def _is_swapping(self, sample: MemorySampled) -> bool:
        return sample.swap_growth >= SWAP_SHARE * self._limit

    def _stop_reason(self, sample: MemorySampled, share: float) -> str:
        if share >= STOP_SHARE:
            used, limit = sample.system_used / 1e9, self._limit / 1e9
            return f"memory reached {share:.0%} of the limit ({used:.1f} of {limit:.1f} GB)"
        if self._is_swapping(sample):
            return f"the machine started to swap ({sample.swap_growth / 1e9:.1f} GB)"
        return "macOS reports critical memory pressure"


class AllocationLimit:
    """Process memory limit that makes an allocation raise before the control group's limit kills the process.

    The kernel kills a process that exceeds its control group's limit without warning, possibly between two
    samples of the guard. Under such a limit, the process's own limit (`RLIMIT_DATA`) is set to its mapped
    memory plus the free memory of the group: an allocation beyond it raises, the run saves a checkpoint and
    exits with code 4. A native library may still crash, so a run over its plan saves every step
    (see the preflight checks). Without a control group, nothing is set.
    """

    def __init__(self) -> None:
        self._previous: tuple[int, int] | None = None

    def apply(self) -> None:
        """Limit this process, if it is in a control group with a memory limit."""
        group, mapped = memory_limit(), status_bytes("VmData")
        if not group.is_cgroup or mapped is None:
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = mapped + int(ALLOCATABLE_SHARE * max(0, group.total - group.used))
        if soft == resource.RLIM_INFINITY or allowed < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
            self._previous = soft, hard

    def restore(self) -> None:
        """Restore the previous limit, so that freed memory can be used to write the checkpoint."""
        if self._previous is not None:
            resource.setrlimit(resource.RLIMIT_DATA, self._previous)
            self._previous = None
