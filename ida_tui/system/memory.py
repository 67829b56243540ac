"""Memory of the machine and of this process, in bytes.

The trainer's thread is the only one that may ask the device; its figures come in through
`DeviceMemory` and are passed on here unchanged.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil

from ida_tui.events.types import MemorySampled
from ida_tui.system import macos, procfs
from ida_tui.system.footprint import Footprint
from ida_tui.system.memory_limit import room


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the device's allocator holds: live tensors, the cache it keeps beside them, and its limit."""

    tensors: int
    cache: int
    limit: int | None = None
    """What the device recommends to stay under (Metal), or has (CUDA)."""


class MemorySensor:
    """Samples memory; remembers how much swap was in use, and the process's peak, when it was made."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._swap_at_start = psutil.swap_memory().used
        first = self._footprint()
        self._peak_at_start, self._most = first.peak, first.now

    def sample(self, device: DeviceMemory | None = None) -> MemorySampled:
        """One sample. `system_used` is total minus available, the only figure that macOS and Linux
        both mean in the same way; in a control group with a limit of its own, the group's."""
        system, process = room(), self._footprint()
        # The kernel's peak also knows what came and went between two samples, but not since when.
        since_start = process.peak if process.peak > self._peak_at_start else 0
        self._most = max(self._most, process.now, since_start)
        return MemorySampled(
            system_used=system.used,
            system_total=system.total,
            process=process.now,
            device_tensors=device.tensors if device else None,
            device_cache=device.cache if device else None,
            swap_growth=max(0, psutil.swap_memory().used - self._swap_at_start),
            pressure=macos.pressure_level() if sys.platform == "darwin" else None,
            process_peak=self._most,
            device_limit=device.limit if device else None,
        )

    def _footprint(self) -> Footprint:
        """On macOS what the kernel charges the process with, for its resident size misses Metal's buffers."""
        found = macos.footprint() if sys.platform == "darwin" else None
        if found is not None:
            return found
        now = self._process.memory_info().rss
        return Footprint(now, procfs.status("VmHWM") or now)
