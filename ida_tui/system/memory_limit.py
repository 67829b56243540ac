"""The memory that this process may use: the machine's, or less where a control group says so (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Room:
    """Memory in bytes that is there, and that is taken, by everyone who shares it."""

    total: int
    used: int
    capped: bool = False
    """Whether a control group says so: it is killed for going beyond, however much the machine has."""


def room(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> Room:
    """The machine's memory, or the tightest control group's that this process is in.

    Args:
        root: where control groups (version 2, or version 1 with its controllers) are mounted.
        process: the file that names this process's groups.
    """
    system = psutil.virtual_memory()
    found = Room(system.total, system.total - system.available)
    for files, folder in _groups(root, process):
        most, current = _number(folder / files.most), _number(folder / files.current)
        if most is None or current is None or most >= found.total:
            continue
        # Pages of files that nobody has used lately are given back before anything is killed.
        found = Room(
            most,
            max(0, current - _inactive_files(folder / "memory.stat", files.inactive)),
            capped=True,
        )
    return found


@dataclass(frozen=True, slots=True)
class _Files:
    """How one version of control groups names things."""

    listed: str
    """What the line of the group begins with, after its number."""
    mounted: str
    most: str
    current: str
    inactive: str


_VERSIONS = (
    _Files("::", "", "memory.max", "memory.current", "inactive_file "),
    _Files(
        ":memory:",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file ",
    ),
)


def _groups(root: Path, process: Path) -> Iterator[tuple[_Files, Path]]:
    """The groups of this process and those around them, the outermost last."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        for files in _VERSIONS:
            if not line.lstrip("0123456789").startswith(files.listed):
                continue
            mounted = root / files.mounted
            inside = mounted / line.rsplit(":", 1)[1].strip().lstrip("/")
            for folder in (inside, *inside.parents):
                if folder.is_relative_to(mounted):
                    yield files, folder


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_files(file: Path, named: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in lines if x.startswith(named)), 0)
