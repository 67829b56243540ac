"""Memory figures of the macOS kernel, read without root through two ctypes calls to libSystem.

Written from Apple's public headers (`sys/resource.h`, `sys/sysctl.h`) and not yet run on a Mac. Both calls
are small functions that return plain values, and a test checks the parser with a buffer in the layout of
the header.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from ida_tui.system.footprint import Footprint

LIBRARY = "/usr/lib/libSystem.B.dylib"
RUSAGE_INFO_V4 = 4
BUFFER_WORDS = 64
"""Buffer size for the struct, in 64-bit words; version 4 fills 35 of them."""
PHYS_FOOTPRINT, LIFETIME_MAX_PHYS_FOOTPRINT = 9, 30
"""Offsets of the two figures in `struct rusage_info_v4`, in words; the first two words are a UUID."""
PRESSURE_SYSCTL = b"kern.memorystatus_vm_pressure_level"


def footprint(pid: int | None = None) -> Footprint | None:
    """Memory footprint as shown by Activity Monitor and used by the kernel's limits; includes Metal buffers.

    Args:
        pid: a process of the same user; None for this process.

    Returns:
        None if the kernel call fails.
    """
    words = _rusage(os.getpid() if pid is None else pid)
    return None if words is None else parse_footprint(words)


def parse_footprint(words: Sequence[int]) -> Footprint:
    """The footprint from the 64-bit words of a `struct rusage_info_v4`."""
    return Footprint(words[PHYS_FOOTPRINT], words[LIFETIME_MAX_PHYS_FOOTPRINT])


def pressure_level() -> int | None:
    """Memory pressure: 1 normal, 2 warning, 4 critical; None if the kernel call fails."""
    level = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(level))
    try:
        library = ctypes.CDLL(LIBRARY)
        failed = library.sysctlbyname(
            PRESSURE_SYSCTL, ctypes.byref(level), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else level.value


def _rusage(pid: int) -> Sequence[int] | None:
    words = (ctypes.c_uint64 * BUFFER_WORDS)()
    try:
        failed = ctypes.CDLL(LIBRARY).proc_pid_rusage(pid, RUSAGE_INFO_V4, ctypes.byref(words))
    except (OSError, AttributeError):
        return None
    return None if failed else list(words)
