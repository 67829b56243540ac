"""Keep glibc from giving memory back to the kernel that the next operation asks for again.

A training step on the CPU frees and takes the same large blocks thousands of times. By default glibc
maps and unmaps each of them, and the kernel zeroes every page anew: on a virtual machine that can be
most of the time of a step. Here freed blocks stay in the process, which is told so by three calls of
``mallopt(3)``. Other allocators and other systems are left as they are.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h; they are part of glibc's ABI.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Apply to this process; True if the C library is glibc and agreed.

    Call it before the trainer's thread starts: a thread's arena is chosen at its first allocation.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # One arena for all threads: those of other threads cannot hold blocks over 64 MiB.
    settings = ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, LARGEST_INT), (M_MMAP_MAX, 0))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)


def give_back() -> None:
    """Return what is free to the system once, whatever `keep_freed_memory` has said."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return
