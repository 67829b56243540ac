"""What only macOS's kernel can say of memory, asked without root: two calls of libSystem by ctypes.

Written from Apple's public headers (`sys/resource.h`, `sys/sysctl.h`); it has not been run on a Mac yet. The
calls are two small functions that return plain values, and a test feeds their parser with a buffer laid out
as the header says.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from ida_tui.system.footprint import Footprint

LIBRARY = "/usr/lib/libSystem.B.dylib"
RUSAGE_INFO_V4 = 4
WORDS = 64
"""Room for the struct, in words of 64 bits; version 4 fills 35 of them."""
PHYS_FOOTPRINT, LIFETIME_MAX_PHYS_FOOTPRINT = 9, 30
"""Places of the two figures in `struct rusage_info_v4`, in words; the first two are the process's UUID."""
PRESSURE = b"kern.memorystatus_vm_pressure_level"


def footprint(pid: int | None = None) -> Footprint | None:
    """What Activity Monitor calls Memory, and what the kernel kills by; Metal's buffers are part of it.

    Args:
        pid: a process of the same user; None is this one.

    Returns:
        None where the kernel does not answer.
    """
    words = _rusage(os.getpid() if pid is None else pid)
    return None if words is None else parsed(words)


def parsed(words: Sequence[int]) -> Footprint:
    """The two figures of `struct rusage_info_v4`, given as 64-bit words."""
    return Footprint(words[PHYS_FOOTPRINT], words[LIFETIME_MAX_PHYS_FOOTPRINT])


def pressure_level() -> int | None:
    """Memory pressure: 1 normal, 2 warning, 4 critical; None where the kernel does not answer."""
    level = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(level))
    try:
        library = ctypes.CDLL(LIBRARY)
        failed = library.sysctlbyname(
            PRESSURE, ctypes.byref(level), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else level.value


def _rusage(pid: int) -> Sequence[int] | None:
    words = (ctypes.c_uint64 * WORDS)()
    try:
        failed = ctypes.CDLL(LIBRARY).proc_pid_rusage(pid, RUSAGE_INFO_V4, ctypes.byref(words))
    except (OSError, AttributeError):
        return None
    return None if failed else list(words)
