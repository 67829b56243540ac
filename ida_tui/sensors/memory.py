"""Memory of the machine and of this process, in bytes.

The trainer's thread is the only one that may ask the device; its figures come in through
`DeviceMemory` and are passed on here unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from ida_tui.events import MemorySampled
from ida_tui.sensors.cap import room


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the device's allocator holds: live tensors, and the cache it keeps beside them."""

    tensors: int
    cache: int


class MemorySensor:
    """Samples memory; remembers how much swap was in use when it was made."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._swap_at_start = psutil.swap_memory().used

    def sample(self, device: DeviceMemory | None = None) -> MemorySampled:
        """One sample. `system_used` is total minus available, the only figure that macOS and Linux
        both mean in the same way; in a control group with a limit of its own, the group's."""
        system = room()
        return MemorySampled(
            system_used=system.used,
            system_total=system.total,
            process=self._process.memory_info().rss,
            device_tensors=device.tensors if device else None,
            device_cache=device.cache if device else None,
            swap_growth=max(0, psutil.swap_memory().used - self._swap_at_start),
            pressure=None,
        )
