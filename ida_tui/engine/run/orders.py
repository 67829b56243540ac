"""Run specification that rank 0 sends to the worker processes before the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.run.context import RunContext


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that a worker process needs to take part in a run."""

    config: Config
    """The resolved profile, with automatic settings filled in from the memory plan."""
    device: DeviceName
    checkpoints: Path
    """Folder of the checkpoints. Only rank 0 writes to it."""
    checkpoint: Path | None
    """The checkpoint to resume from; None for a new run."""
    has_steps_left: bool
    """False if all steps are already done and only the final weights are missing."""

    @classmethod
    def from_context(cls, run: RunContext) -> Self:
        """Create the specification of a run."""
        checkpoint = run.resume_point.checkpoint if run.resume_point else None
        all_steps_done = (
            run.resume_point is not None and run.resume_point.step >= run.config.planned_steps()
        )
        return cls(
            config=run.config,
            device=run.preflight.device,
            checkpoints=run.directory.checkpoints,
            checkpoint=checkpoint,
            has_steps_left=not (checkpoint and all_steps_done),
        )
