"""Stand-in for the training of a sweep's runs: real processes that write a synthetic run in a moment."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import ida_tui
from ida_tui.sweep import directory
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.processes import SweepProcess, TrainingProcess
from tests.support.synthetic_sweep import RunOutcome, add_run

GPUS_FILE = "gpus.jsonl"
"""File in the working directory with the GPU of each run."""
_PACKAGE = f"__path__.append({str(Path(ida_tui.__file__).parent)!r})\n"
_MAIN = "from tests.support.stand_in_training import main\n\nmain()\n"


def write_stand_in(folder: Path) -> str:
    """Write a package `ida_tui` with another `python -m ida_tui`; returns the `PYTHONPATH` for it."""
    package = folder / "ida_tui"
    package.mkdir()
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "__main__.py").write_text(_MAIN)
    return os.pathsep.join((str(folder), str(Path(__file__).parents[2])))


def main() -> None:
    """Write the run of `ida-tui --run outputs/sweeps/ID/configs/NUMBER.yaml`, and record its GPU.

    `--wait` writes a line and waits until the process is stopped.
    """
    if sys.argv[1] == "--wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        print("waiting", flush=True)
        signal.pause()
    config = Path(sys.argv[2])
    sweep = directory.read(config.parents[1])
    number = sweep.number_of([str(config)])
    assert number is not None
    with open(GPUS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps([number, os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\n")
    add_run(sweep, number, RunOutcome(0.5 + 0.01 * number))


def reward_of(values: Mapping[str, str]) -> float:
    """A reward between 0.2 and 0.8 that is highest at a learning rate of 1e-4."""
    rate = float(values["training.learning_rate"])
    return 0.8 - 0.6 * min(1.0, abs(rate - 1e-4) / 1e-3)


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
