"""Resume points of unfinished runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory, require_safe_files
from ida_tui.runs.log.replay import read_final_state
from ida_tui.runs.store import checkpoints
from ida_tui.runs.store.checkpoints import BrokenCheckpoint, Checkpoint
from ida_tui.util.paths import display_path
from ida_tui.util.text import one_line


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point from which a run can resume."""

    directory: RunDirectory
    state: RunState
    """State of the run so far."""
    checkpoint: Path | None
    """The checkpoint to resume from; None if there is none, and the run restarts in the same directory."""
    step: int
    """The last finished step in the checkpoint; 0 without a checkpoint."""
    rejected: tuple[BrokenCheckpoint, ...] = ()
    """Newer checkpoints that are broken."""


def find_resume_point(directory: RunDirectory) -> ResumePoint:
    """The point from which a run can resume.

    Raises:
        UsageError: the run is complete, is being trained, or cannot be read.
    """
    shown = display_path(directory.path)
    require_safe_files(directory)
    if owner.is_alive(directory):
        raise UsageError(
            f"another process is training {shown}",
            f"stop that process first: ida-tui attach {shown} --stop",
        )
    state = read_final_state(directory)
    if state.ended is not None and state.ended.status == "done":
        raise UsageError(
            f"{shown} is complete", "to view it, start ida-tui, press 4, and press Enter on the run"
        )
    newest, rejected = newest_valid_checkpoint(directory, state.run_ids)
    step = newest.step if newest else 0
    return ResumePoint(directory, state, newest.path if newest else None, step, tuple(rejected))


def newest_valid_checkpoint(
    directory: RunDirectory, run_ids: Collection[str]
) -> tuple[Checkpoint | None, list[BrokenCheckpoint]]:
    """The newest checkpoint that passes a full verification, and the newer checkpoints that do not.

    Args:
        directory: the run.
        run_ids: ids of the run (`RunState.run_ids`), which must have saved the checkpoint; empty accepts any.
    """
    candidates, broken = checkpoints.list_checkpoints(directory.checkpoints)
    rejected = list(broken)
    for candidate in candidates:
        saved_by = candidate.metadata.get("run_id")
        checkpoint = checkpoints.verify_checkpoint(candidate.path, thorough=True)
        if run_ids and saved_by is not None and saved_by not in run_ids:
            reason = f"it was saved by another run, {one_line(str(saved_by))[:100]}"
            checkpoint = BrokenCheckpoint(candidate.path, candidate.step, reason)
        if isinstance(checkpoint, Checkpoint):
            return checkpoint, [other for other in rejected if other.step >= checkpoint.step]
        if isinstance(checkpoint, BrokenCheckpoint):
            rejected.append(checkpoint)
    return None, rejected
