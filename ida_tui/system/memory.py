"""Memory sensor: samples of the memory of the machine, this process and the device, in bytes.

Only the trainer's thread may query the device; its figures arrive as `DeviceMemory` and are passed on
unchanged.

On macOS the figures come from the kernel, read without root through two ctypes calls to libSystem. They
follow Apple's public headers (`sys/resource.h`, `sys/sysctl.h`) and have not yet run on a Mac. Both calls are
small functions that return plain values, and a test checks the parser with a buffer in the layout of the
header.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from ida_tui.events.types import MemorySampled
from ida_tui.system.memory_limit import memory_limit, status_bytes

MACOS_LIBRARY = "/usr/lib/libSystem.B.dylib"
RUSAGE_INFO_V4 = 4
RUSAGE_BUFFER_WORDS = 64
"""Buffer size for the struct, in 64-bit words; version 4 fills 35 of them."""
PHYS_FOOTPRINT, LIFETIME_MAX_PHYS_FOOTPRINT = 9, 30
"""Offsets of the two figures in `struct rusage_info_v4`, in words; the first two words are a UUID."""
PRESSURE_SYSCTL = b"kern.memorystatus_vm_pressure_level"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Current and peak memory of a process, in bytes."""

    current: int
    peak: int


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
        self._swap_at_start = psutil.swap_memory().used
        first = own_footprint()
        self._peak_at_start, self._peak = first.peak, first.current

    def sample(self, device: DeviceMemory | None = None) -> MemorySampled:
        """One sample.

        `system_used` is total minus available memory, the only figure with the same meaning on macOS and
        Linux; in a control group with a limit, it is the memory used by the group.
        """
        system, process = memory_limit(), own_footprint()
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
            pressure=macos_pressure_level() if sys.platform == "darwin" else None,
            process_peak=self._peak,
            device_limit=device.limit if device else None,
        )


def own_footprint() -> Footprint:
    """The footprint of this process; on macOS from the kernel, as resident size omits Metal buffers."""
    measured = macos_footprint() if sys.platform == "darwin" else None
    if measured is not None:
        return measured
    resident = psutil.Process().memory_info().rss
    return Footprint(resident, status_bytes("VmHWM") or resident)


def macos_footprint(pid: int | None = None) -> Footprint | None:
    """Memory footprint as shown by Activity Monitor and used by the kernel's limits; includes Metal buffers.

    Args:
        pid: a process of the same user; None for this process.

    Returns:
        None if the kernel call fails.
    """
    words = _macos_rusage(os.getpid() if pid is None else pid)
    return None if words is None else parse_footprint(words)


def parse_footprint(words: Sequence[int]) -> Footprint:
    """The footprint from the 64-bit words of a `struct rusage_info_v4`."""
    return Footprint(words[PHYS_FOOTPRINT], words[LIFETIME_MAX_PHYS_FOOTPRINT])


def macos_pressure_level() -> int | None:
    """Memory pressure: 1 normal, 2 warning, 4 critical; None if the kernel call fails."""
    level = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(level))
    try:
        library = ctypes.CDLL(MACOS_LIBRARY)
        failed = library.sysctlbyname(
            PRESSURE_SYSCTL, ctypes.byref(level), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else level.value


def _macos_rusage(pid: int) -> Sequence[int] | None:
    words = (ctypes.c_uint64 * RUSAGE_BUFFER_WORDS)()
    try:
        failed = ctypes.CDLL(MACOS_LIBRARY).proc_pid_rusage(
            pid, RUSAGE_INFO_V4, ctypes.byref(words)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else list(words)
