"""Memory limit of this process: the memory of the machine, or a lower limit of a Linux control group.

The kernel's figures of this process, `/proc/self/status`, are read here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Total and used memory, in bytes; processes that share the limit share the used memory."""

    total: int
    used: int
    is_cgroup: bool = False
    """Whether a control group sets the limit; the kernel kills processes that exceed it."""


def memory_limit(
    cgroup_root: Path = Path("/sys/fs/cgroup"), process_file: Path = Path("/proc/self/cgroup")
) -> MemoryLimit:
    """The memory of the machine, or the lowest limit of the control groups of this process.

    Args:
        cgroup_root: mount point of control groups (version 2, or version 1 with its controllers).
        process_file: file that lists the control groups of this process.
    """
    system = psutil.virtual_memory()
    result = MemoryLimit(system.total, system.total - system.available)
    for files, folder in _own_cgroups(cgroup_root, process_file):
        limit, current = _read_number(folder / files.limit), _read_number(folder / files.current)
        if limit is None or current is None or limit >= result.total:
            continue
        # The kernel reclaims inactive file pages before it kills a process, so they do not count as used.
        result = MemoryLimit(
            limit,
            max(0, current - _inactive_files(folder / "memory.stat", files.inactive_key)),
            is_cgroup=True,
        )
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

    line_prefix: str
    """Start of the group's line in the list of groups, after its number."""
    mount_point: str
    limit: str
    current: str
    inactive_key: str


_CGROUP_VERSIONS = (
    _CgroupFiles("::", "", "memory.max", "memory.current", "inactive_file "),
    _CgroupFiles(
        ":memory:",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file ",
    ),
)


def _own_cgroups(cgroup_root: Path, process_file: Path) -> Iterator[tuple[_CgroupFiles, Path]]:
    """The control groups of this process and their parents, outermost last."""
    try:
        lines = process_file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        for files in _CGROUP_VERSIONS:
            if not line.lstrip("0123456789").startswith(files.line_prefix):
                continue
            mounted = cgroup_root / files.mount_point
            inside = mounted / line.rsplit(":", 1)[1].strip().lstrip("/")
            for folder in (inside, *inside.parents):
                if folder.is_relative_to(mounted):
                    yield files, folder


def _read_number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_files(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
