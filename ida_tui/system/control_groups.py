"""Linux control groups of this process, which limit its memory and its processor time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""Where control groups are mounted."""
OWN_GROUPS = Path("/proc/self/cgroup")
"""The kernel's list of the groups of this process."""


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A control group: its folder, and the version of its files (1 or 2)."""

    folder: Path
    version: int

    def read(self, name: str) -> str:
        """The content of one of its files; empty if it cannot be read."""
        try:
            return (self.folder / name).read_text().strip()
        except OSError:
            return ""

    def read_number(self, name: str) -> int | None:
        """The number in one of its files; None if there is none, such as for `max`."""
        text = self.read(name)
        return int(text) if text.isdigit() else None


def own_groups(
    controller: str, root: Path = ROOT, process_file: Path = OWN_GROUPS
) -> Iterator[ControlGroup]:
    """The control groups of this process and their parents, outermost last; none outside Linux.

    Args:
        controller: what they control: `memory` or `cpu`.
        root: mount point of control groups (version 2, or version 1 with its controllers).
        process_file: file that lists the control groups of this process.
    """
    try:
        lines = process_file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mounted, version = (root / controller, 1) if controllers else (root, 2)
        inside = mounted / path.strip().lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(mounted):
                yield ControlGroup(folder, version)
