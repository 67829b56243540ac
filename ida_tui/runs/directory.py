"""Make and find run directories: ``outputs/<experiment>/<run-id>/``.

A run directory holds ``config.yaml`` (resolved; runs again as it is), ``manifest.json``,
``events.jsonl`` (the truth), ``completions.jsonl``, ``checkpoints/``, ``adapter/`` or ``model/`` (the
final weights) and ``logs/``. ``outputs/<experiment>/latest`` points at the newest.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ida_tui.errors import UsageError


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where everything of one run is."""

    path: Path

    @property
    def run_id(self) -> str:
        """The name of the directory, unique within its experiment and sortable by time."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved profile."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, machine and command line."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """One event a line."""
        return self.path / "events.jsonl"

    @property
    def completions(self) -> Path:
        """One scored completion a line."""
        return self.path / "completions.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints, ``checkpoint-<step>/``."""
        return self.path / "checkpoints"

    @property
    def owner(self) -> Path:
        """Which process trains the run, while one does."""
        return self.path / "owner.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains the run."""
        return self.path / ".lock"

    @property
    def control(self) -> Path:
        """What another process asks of the run, until it is read."""
        return self.path / "control.json"

    @property
    def logs(self) -> Path:
        """Text for whoever has to find out what went wrong."""
        return self.path / "logs"

    def weights(self, method: str) -> Path:
        """The final weights: the adapter, or the whole model where every weight was trained."""
        return self.path / ("adapter" if method == "lora" else "model")


def plan(output_dir: str | Path, experiment: str) -> Path:
    """The folder that the runs of an experiment are made in."""
    return Path(output_dir).expanduser() / experiment


def create(output_dir: str | Path, experiment: str, moment: datetime) -> RunDirectory:
    """Make a new run directory, named by its moment; never one that exists.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    parent = plan(output_dir, experiment)
    stamp = moment.strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(_fresh(parent, stamp))
        directory.logs.mkdir()
    except OSError as error:
        raise UsageError(
            f"cannot make a run directory in {parent}: {error.strerror or error}",
            "make the folder writable, or choose another with output_dir=PATH",
        ) from None
    point_latest(directory)
    return directory


def _fresh(parent: Path, stamp: str) -> Path:
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(f"a thousand runs named {stamp}")


def point_latest(directory: RunDirectory) -> None:
    """Move the ``latest`` link to this run in one step; a file system without links goes without it."""
    parent = directory.path.parent
    beside = parent / f".latest-{os.getpid()}"
    with contextlib.suppress(OSError):
        beside.unlink(missing_ok=True)
        beside.symlink_to(directory.path.name)
        beside.replace(parent / "latest")
