"""What rank 0 tells the other processes of a run before its model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.run.context import UnderWay


@dataclass(frozen=True, slots=True)
class Orders:
    """The run, as every rank has to compute it."""

    config: Config
    """The resolved profile, with what it leaves to the memory plan filled in."""
    device: DeviceName
    checkpoints: Path
    """Where rank 0 keeps them; the others only read."""
    kept: Path | None
    """The checkpoint to go on from."""
    trains: bool
    """False where every step was made before, and only the weights are missing."""

    @classmethod
    def of(cls, run: UnderWay) -> Self:
        """Those of a run."""
        kept = run.resume.checkpoint if run.resume else None
        done = run.resume is not None and run.resume.step >= run.config.planned_steps()
        return cls(
            config=run.config,
            device=run.ready.device,
            checkpoints=run.directory.checkpoints,
            kept=kept,
            trains=not (kept and done),
        )
