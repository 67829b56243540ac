"""Stand-in for the training of a sweep's runs: real processes that write a synthetic run in a moment."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import ida_tui
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.processes import SweepProcess, TrainingProcess
from tests.support.synthetic_sweep import RunOutcome, add_run, events_text

GPUS_FILE = "gpus.jsonl"
"""File in the working directory with the GPU of each run."""
_MAIN = Path(__file__).with_name("stand_in_main.py")


def write_stand_in(folder: Path, outcomes: Sequence[RunOutcome] = ()) -> str:
    """Write a package `ida_tui` with another `python -m ida_tui`; returns the `PYTHONPATH` for it.

    Args:
        folder: an existing folder.
        outcomes: the outcome of the run of each combination.
    """
    package = folder / "ida_tui"
    package.mkdir()
    # Everything else is the real package.
    (package / "__init__.py").write_text(
        f"__path__.append({str(Path(ida_tui.__file__).parent)!r})\n"
    )
    (package / "__main__.py").write_text(_MAIN.read_text())
    for number, outcome in enumerate(outcomes):
        (package / f"{number + 1:03}.jsonl").write_text(events_text(Path("run"), outcome))
    return str(folder)


def reward_of(values: Mapping[str, str]) -> float:
    """A reward between 0.2 and 0.8 that is highest at a learning rate of 2e-5."""
    rate = float(values["training.learning_rate"])
    return max(0.2, 0.8 - 0.35 * abs(math.log10(rate / 2e-5)))


@dataclass
class StandInHost:
    """A host whose runs are finished when they start, with a reward that depends on the learning rate."""

    kill_at: int | None = None
    """Number of the run at whose start the process is killed."""
    started: list[int] = field(default_factory=list)
    """The runs that were started."""

    def slots(self, jobs: int | None, uses_gpus: bool) -> int:
        """One run at a time."""
        return jobs or 1

    def has_room(self, sweep: Sweep, number: int, active: Mapping[int, TrainingProcess]) -> bool:
        """Whether no run is active."""
        return not active

    def start(
        self,
        sweep: Sweep,
        number: int,
        run: Path | None,
        budget: float | None,
        active: Mapping[int, TrainingProcess],
    ) -> TrainingProcess:
        """Write a finished run."""
        if number == self.kill_at:
            os.kill(os.getpid(), 9)
        self.started.append(number)
        reward = reward_of(sweep.combinations[number].values)
        add_run(sweep, number, replace(RunOutcome(), reward=reward))
        return SweepProcess(sweep, number, None)

    def describe(self, process: TrainingProcess) -> str:
        """Nothing."""
        return ""

    def summary(self, uses_gpus: bool) -> str:
        """Nothing."""
        return ""
