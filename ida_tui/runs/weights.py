"""Trained weights of a run: its final weights, or those of its newest valid checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ida_tui.config.schema import Config
from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory, require_safe_files
from ida_tui.runs.log.replay import read_final_state
from ida_tui.runs.resume import newest_valid_checkpoint
from ida_tui.runs.store.checkpoints import WEIGHT_FILES
from ida_tui.util.paths import display_path


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """Trained weights on disk, and the state of their run."""

    path: Path
    """Directory of the adapter or of the full model."""
    step: int
    """The last step that the weights were trained on."""
    is_final: bool
    """Whether these are the final weights and not those of a checkpoint."""
    state: RunState

    @property
    def label(self) -> str:
        """A label such as `step 40, adapter` or `step 12 of 40, checkpoint-12`."""
        return f"{self.step_label}, {self.path.name}"

    @property
    def step_label(self) -> str:
        """A label such as `step 40`, or `step 12 of 40` if more steps were planned."""
        steps = self.state.run.steps if self.state.run else self.step
        return f"step {self.step}" + ("" if self.is_final or steps == self.step else f" of {steps}")


def find_weights(directory: RunDirectory, config: Config) -> TrainedWeights:
    """The newest weights of a run that has ended or is paused.

    Raises:
        UsageError: the run is training, cannot be read, contains links, or has not saved any weights.
    """
    shown = display_path(directory.path)
    require_safe_files(directory)
    state = read_final_state(directory)
    if owner.is_alive(directory) and state.pause is None and state.ended is None:
        raise UsageError(
            f"{shown} is being trained",
            f"pause it first to free the device: ida-tui attach {shown} --pause",
        )
    final = directory.weights(config.training.method)
    saved = state.checkpoint
    # The event follows the files; without it the directory may be incomplete.
    if (
        saved
        and Path(saved.path).name == final.name
        and any((final / name).is_file() for name in WEIGHT_FILES)
    ):
        return TrainedWeights(final, saved.step, True, state)
    newest, rejected = newest_valid_checkpoint(directory, state.run_ids)
    if newest is not None:
        return TrainedWeights(newest.path, newest.step, False, state)
    reason = f" ({rejected[0].path.name}: {rejected[0].reason})" if rejected else ""
    raise UsageError(
        f"{shown} has no trained weights{reason}",
        "a run saves its weights when it is paused, stopped or complete;\n"
        f"to resume it: ida-tui resume {shown}",
    )
