"""Memory limit of this process: the memory of the machine, or a lower limit of a Linux control group.

The kernel's figures of this process, `/proc/self/status`, are read here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from ida_tui.system.control_groups import OWN_GROUPS, ROOT, ControlGroup, own_groups


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Total and used memory, in bytes; processes that share the limit share the used memory."""

    total: int
    used: int
    is_cgroup: bool = False
    """Whether a control group sets the limit; the kernel kills processes that exceed it."""


def memory_limit(cgroup_root: Path = ROOT, process_file: Path = OWN_GROUPS) -> MemoryLimit:
    """The memory of the machine, or the lowest limit of the control groups of this process.

    Args:
        cgroup_root: mount point of control groups (version 2, or version 1 with its controllers).
        process_file: file that lists the control groups of this process.
    """
    system = psutil.virtual_memory()
    result = MemoryLimit(system.total, system.total - system.available)
    for group in own_groups("memory", cgroup_root, process_file):
        files = _CGROUP_FILES[group.version]
        limit, current = group.read_number(files.limit), group.read_number(files.current)
        if limit is None or current is None or limit >= result.total:
            continue
        # The kernel reclaims inactive file pages before it kills a process, so they do not count as used.
        result = MemoryLimit(limit, max(0, current - _inactive_files(group)), is_cgroup=True)
    return result


def status_bytes(name: str) -> int | None:
    """A memory figure of this process in bytes, by the kernel's name (`VmHWM`, `VmData`); None if missing."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None
    )


@dataclass(frozen=True, slots=True)
class _CgroupFiles:
    """File names of one version of control groups."""

    limit: str
    current: str
    inactive_key: str


_CGROUP_FILES = {
    1: _CgroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    2: _CgroupFiles("memory.max", "memory.current", "inactive_file "),
}


def _inactive_files(group: ControlGroup) -> int:
    key = _CGROUP_FILES[group.version].inactive_key
    lines = group.read("memory.stat").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
