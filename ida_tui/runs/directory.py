"""Run directories, `outputs/<experiment>/<run-id>/`: their paths and their creation.

A run directory contains `config.yaml` (the resolved profile, which reproduces the run), `manifest.json`,
`events.jsonl` (from which everything else can be rebuilt), `completions.jsonl`, `checkpoints/`,
`adapter/` or `model/` (the final weights) and `logs/`. `outputs/<experiment>/latest` links to the
newest run.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path, expand_home
from ida_tui.util.safe_files import find_unsafe_entry
from ida_tui.util.text import one_line


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of the files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The name of the directory; unique within its experiment and sortable by time."""
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
        """Events, one per line."""
        return self.path / "events.jsonl"

    @property
    def completions(self) -> Path:
        """Scored completions, one per line."""
        return self.path / "completions.jsonl"

    @property
    def judge_costs(self) -> Path:
        """Costs of paid judge calls, two lines per call."""
        return self.path / "judge-costs.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, `checkpoint-<step>/`."""
        return self.path / "checkpoints"

    @property
    def owner(self) -> Path:
        """The process that trains the run; exists only while the run is training."""
        return self.path / "owner.json"

    @property
    def lock(self) -> Path:
        """Lock file of the process that trains the run."""
        return self.path / ".lock"

    @property
    def control_request(self) -> Path:
        """A request from another process; removed when it is read."""
        return self.path / "control.json"

    @property
    def logs(self) -> Path:
        """Text logs for debugging."""
        return self.path / "logs"

    def weights(self, method: str) -> Path:
        """The final weights: the adapter with LoRA, otherwise the full model."""
        return self.path / ("adapter" if method == "lora" else "model")


def require_safe_files(directory: RunDirectory) -> None:
    """Check that a run directory contains regular files and folders only; writing to others is unsafe.

    The links that ida-tui and W&B make are accepted.

    Raises:
        UsageError: it contains another link, a pipe, a device or a text file of absurd size.
    """
    path = directory.path

    def is_own_link(link: Path) -> bool:
        target = os.readlink(link)  # noqa: PTH115 - a Path would drop a trailing slash
        if link == directory.checkpoints / "latest":
            return re.fullmatch(r"checkpoint-\d+", target) is not None
        # W&B replaces its links and never writes through them.
        return link.parent == path / "wandb" and not target.startswith(("/", ".."))

    if unsafe := find_unsafe_entry(path, is_own_link):
        name = one_line(unsafe.name)
        raise UsageError(
            f"{name} in {display_path(path)} {unsafe.problem}",
            f"remove {name}, or replace it by a regular copy; a command on the run writes to its files",
        )


def experiment_directory(output_dir: str | Path, experiment: str) -> Path:
    """The directory that contains the runs of an experiment."""
    return expand_home(str(output_dir)) / experiment


def create_run_directory(
    output_dir: str | Path, experiment: str, started_at: datetime
) -> RunDirectory:
    """Create a new run directory, named by its start time; never reuses an existing directory.

    The `latest` link is moved later, by `point_latest`, when the run has started.

    Raises:
        UsageError: the directory cannot be created or written to.
    """
    parent = experiment_directory(output_dir, experiment)
    stamp = started_at.strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(_create_unique(parent, stamp))
        directory.logs.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(
            f"cannot create a run directory in {parent}: {error.strerror or error}",
            "make the folder writable, or choose another folder with output_dir=PATH",
        ) from None
    return directory


def make_private(directory: RunDirectory) -> None:
    """Let only the owner enter a run directory, such as one that an older version made."""
    with contextlib.suppress(OSError):
        directory.path.chmod(0o700)


def _create_unique(parent: Path, stamp: str) -> Path:
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path
    raise FileExistsError(f"it already has a directory for every run name of {stamp}")


def point_latest(directory: RunDirectory) -> str:
    """Move the `latest` link to this run atomically; skipped if the file system has no links.

    Returns:
        The name of the run that it pointed to; empty if there was no link.
    """
    link = directory.path.parent / "latest"
    previous = ""
    with contextlib.suppress(OSError):
        previous = str(link.readlink())
    _replace_link(link, directory.path.name)
    return previous


def restore_latest(directory: RunDirectory, previous: str) -> None:
    """Move the `latest` link back from this run, whose start failed, to the run that it pointed to before.

    Args:
        directory: the run.
        previous: what `point_latest` returned.
    """
    link = directory.path.parent / "latest"
    with contextlib.suppress(OSError):
        if str(link.readlink()) != directory.path.name:
            return
        if previous:
            _replace_link(link, previous)
        else:
            link.unlink()


def _replace_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
