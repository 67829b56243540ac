"""Settings of glibc's allocator for faster training steps on the CPU.

A training step on the CPU frees and allocates the same large blocks thousands of times. By default glibc
maps and unmaps each of them, and the kernel zeroes every page each time; on a virtual machine that can
take most of the time of a step. Three calls of `mallopt(3)` make glibc reuse freed blocks within the
process. Other allocators and operating systems are not affected.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h; these values are part of glibc's ABI.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
INT_MAX = 2**31 - 1
DEFAULT_TRIM_BYTES, DEFAULT_MMAP_MAX = 128 * 1024, 65_536
"""The settings that glibc starts with."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process; returns whether glibc accepted all settings.

    Call this before the trainer's thread starts: a thread's arena is chosen at its first allocation.
    """
    # One arena for all threads: the arenas of other threads cannot hold blocks over 64 MiB.
    return _set_options((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, INT_MAX), (M_MMAP_MAX, 0))


def return_freed_memory() -> bool:
    """Undo `keep_freed_memory`, except for the arena; returns whether glibc accepted all settings.

    Of a sharded model, blocks of very different sizes come and go with every layer. Kept, they would take
    several times the memory that is in use.
    """
    return _set_options((M_TRIM_THRESHOLD, DEFAULT_TRIM_BYTES), (M_MMAP_MAX, DEFAULT_MMAP_MAX))


def _set_options(*options: tuple[int, int]) -> bool:
    """Set options of glibc's allocator, by number; returns whether it accepted all of them."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    accepted = [mallopt(name, value) == 1 for name, value in options]
    return all(accepted)


def release_free_memory() -> None:
    """Return free memory to the system once, even after `keep_freed_memory`."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return
