"""The memory that this process may use: the machine's, or less where a control group says so (Linux)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Room:
    """Memory in bytes that is there, and that is taken, by everyone who shares it."""

    total: int
    used: int


def room(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> Room:
    """The machine's memory, or the tightest control group's that this process is in.

    Args:
        root: where control groups (version 2) are mounted.
        process: the file that names this process's group.
    """
    system = psutil.virtual_memory()
    found = Room(system.total, system.total - system.available)
    for folder in _groups(root, process):
        most, current = _number(folder / "memory.max"), _number(folder / "memory.current")
        if most is None or current is None or most >= found.total:
            continue
        # Pages of files that nobody has used lately are given back before anything is killed.
        found = Room(most, max(0, current - _inactive_files(folder / "memory.stat")))
    return found


def _groups(root: Path, process: Path) -> list[Path]:
    """The group of this process and those around it, the root last."""
    try:
        line = next(x for x in process.read_text().splitlines() if x.startswith("0::"))
    except (OSError, StopIteration):
        return []
    inside = root / line.removeprefix("0::").strip().lstrip("/")
    return [folder for folder in (inside, *inside.parents) if folder.is_relative_to(root)]


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_files(file: Path) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in lines if x.startswith("inactive_file ")), 0)
