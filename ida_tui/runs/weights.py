"""The weights that a run has come to: its final ones, or those of its newest whole checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ida_tui.config.schema import Config
from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.events.types import EventError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.resume import newest_whole
from ida_tui.runs.store.checkpoints import WEIGHTS
from ida_tui.util.paths import shown_path


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights on the disk, and the run as far as its events tell."""

    path: Path
    """An adapter's folder, or a whole model's."""
    step: int
    """The last step that they have learnt from."""
    final: bool
    """False where they are a checkpoint's."""
    state: RunState

    @property
    def words(self) -> str:
        """Such as ``step 40, adapter`` or ``step 12 of 40, checkpoint-12``."""
        return f"{self.moment}, {self.path.name}"

    @property
    def moment(self) -> str:
        """Such as ``step 40``, or ``step 12 of 40`` where more was planned."""
        steps = self.state.run.steps if self.state.run else self.step
        return f"step {self.step}" + ("" if self.final or steps == self.step else f" of {steps}")


def trained(directory: RunDirectory, config: Config) -> Trained:
    """The newest weights of a run that is over, stopped, or paused.

    Raises:
        UsageError: it is in the middle of training, cannot be read, or has saved nothing.
    """
    where = shown_path(directory.path)
    try:
        state = Replay.open(directory.events).end
    except (OSError, EventError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from None
    if owner.alive(directory) and state.pause is None and state.ended is None:
        raise UsageError(
            f"{where} is being trained now",
            f"pause it first, so that both have the machine: ida-tui attach {where} --pause",
        )
    final = directory.weights(config.training.method)
    saved = state.checkpoint
    # The event comes after the files; a folder of that name without it may be half written.
    if (
        saved
        and Path(saved.path).name == final.name
        and any((final / name).is_file() for name in WEIGHTS)
    ):
        return Trained(final, saved.step, True, state)
    newest, rejected = newest_whole(directory, state.run.run_id if state.run else "")
    if newest is not None:
        return Trained(newest.path, newest.step, False, state)
    why = f": {rejected[0].path.name} cannot be used, {rejected[0].why}" if rejected else ""
    raise UsageError(
        f"{where} has no trained weights{why}",
        "a run saves them at its end, and when it is paused or stopped",
    )
