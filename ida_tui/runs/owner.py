"""Which process trains a run, and whether it is still there."""

from __future__ import annotations

from ida_tui.runs.directory import RunDirectory


def claim(directory: RunDirectory) -> None:
    """Write down that this process trains the run."""


def alive(directory: RunDirectory) -> bool:
    """Whether the process that trains the run is still there."""
    return False
