"""Run specification that rank 0 sends to the worker processes before the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.run.context import UnderWay


@dataclass(frozen=True, slots=True)
class Orders:
    """Everything that a worker process needs to take part in a run."""

    config: Config
    """The resolved profile, with automatic settings filled in from the memory plan."""
    device: DeviceName
    checkpoints: Path
    """Folder of the checkpoints. Only rank 0 writes to it."""
    kept: Path | None
    """The checkpoint to resume from; None for a new run."""
    trains: bool
    """False if all steps are already done and only the final weights are missing."""

    @classmethod
    def of(cls, run: UnderWay) -> Self:
        """Create the specification of a run."""
        checkpoint = run.resume.checkpoint if run.resume else None
        all_steps_done = run.resume is not None and run.resume.step >= run.config.planned_steps()
        return cls(
            config=run.config,
            device=run.ready.device,
            checkpoints=run.directory.checkpoints,
            kept=checkpoint,
            trains=not (checkpoint and all_steps_done),
        )
