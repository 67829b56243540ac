"""Memory sensor: samples of the memory of the machine, this process and the device, in bytes.

Only the trainer's thread may query the device; its figures arrive as `DeviceMemory` and are passed on
unchanged.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil

from ida_tui.events.types import MemorySampled
from ida_tui.system import macos, procfs
from ida_tui.system.footprint import Footprint
from ida_tui.system.memory_limit import memory_limit


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the device's allocator: live tensors, cached memory, and the limit."""

    tensors: int
    cache: int
    limit: int | None = None
    """Recommended maximum (Metal) or memory size (CUDA) of the device."""


class MemorySensor:
    """Samples memory; swap growth and the process peak are relative to the creation of the sensor."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._swap_at_start = psutil.swap_memory().used
        first = self._footprint()
        self._peak_at_start, self._peak = first.peak, first.current

    def sample(self, device: DeviceMemory | None = None) -> MemorySampled:
        """One sample.

        `system_used` is total minus available memory, the only figure with the same meaning on macOS and
        Linux; in a control group with a limit, it is the memory used by the group.
        """
        system, process = memory_limit(), self._footprint()
        # The kernel's peak includes spikes between two samples, but may date from before the start.
        since_start = process.peak if process.peak > self._peak_at_start else 0
        self._peak = max(self._peak, process.current, since_start)
        return MemorySampled(
            system_used=system.used,
            system_total=system.total,
            process=process.current,
            device_tensors=device.tensors if device else None,
            device_cache=device.cache if device else None,
            swap_growth=max(0, psutil.swap_memory().used - self._swap_at_start),
            pressure=macos.pressure_level() if sys.platform == "darwin" else None,
            process_peak=self._peak,
            device_limit=device.limit if device else None,
        )

    def _footprint(self) -> Footprint:
        """The footprint of this process; on macOS from the kernel, as resident size omits Metal buffers."""
        measured = macos.footprint() if sys.platform == "darwin" else None
        if measured is not None:
            return measured
        resident = self._process.memory_info().rss
        return Footprint(resident, procfs.status_bytes("VmHWM") or resident)
