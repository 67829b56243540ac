"""Synthetic sweeps without training, for tests of code that reads and shows sweeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep.directory import SWEEPS_FOLDER, Combination, Sweep, save
from ida_tui.sweep.grid import SweepGrid
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import step_events


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a synthetic run."""

    reward: float = 0.5
    declined: int = 40
    """Number of 40 unsafe prompts that were declined."""
    answered: int = 80
    """Number of 80 harmless prompts that were answered."""
    status: ev.RunEndStatus | None = "done"
    """None for a run that is in progress."""
    steps: int = 2
    planned_steps: int = 2
    highest: float = 1.0
    """The reward of a step's best possible completion."""
    seconds: float = 30.0
    cost: float | None = 0.01
    message: str = "Training complete"


def create_sweep(
    keys: Mapping[str, Sequence[str]],
    outcomes: Sequence[RunOutcome | None],
    *,
    sweep_id: str = "20260131-090000",
    budget: float | None = None,
) -> Sweep:
    """A sweep of quickstart below ``outputs``, with runs for its first combinations.

    Args:
        keys: the values of each varied key.
        outcomes: outcome of the run of each of the first combinations; None for a run that has not started.
        sweep_id: name of the sweep.
        budget: US dollars for the sweep.
    """
    path = (Path("outputs") / SWEEPS_FOLDER / sweep_id).absolute()
    (path / "configs").mkdir(parents=True)
    (path / "logs").mkdir()
    grid = SweepGrid({key: tuple(values) for key, values in keys.items()}, ())
    combinations = tuple(Combination(values, 1.4e9, 24e9) for values in grid.combinations)
    sweep = Sweep(path, "quickstart", "quickstart", grid.keys, (), combinations, budget=budget)
    save(sweep)
    for number, outcome in enumerate(outcomes):
        if outcome is not None:
            add_run(sweep, number, outcome)
    return sweep


def add_run(
    sweep: Sweep, number: int, outcome: RunOutcome, *, replace_existing: bool = False
) -> RunDirectory:
    """Write the run directory of a combination, as if the run had been trained."""
    directory = RunDirectory(sweep.runs_folder / f"20260131-0901{number:02}")
    directory.logs.mkdir(parents=True, exist_ok=replace_existing)
    command = ["ida-tui", "--run", str(sweep.config_file(number))]
    directory.manifest.write_text(json.dumps({"command": command}))
    directory.events.write_text(events_text(directory.path, outcome), encoding="utf-8")
    return directory


def events_text(path: Path, outcome: RunOutcome) -> str:
    """The event log of a run in this directory."""
    records = (
        ev.Record(seq, f"2026-01-31T09:01:{seq % 60:02}.000Z", event)
        for seq, event in enumerate(_events(path, outcome))
    )
    return "".join(codec.encode(record) + "\n" for record in records)


def _events(path: Path, outcome: RunOutcome) -> list[ev.Event]:
    events: list[ev.Event] = [
        replace(run_started(path, outcome.planned_steps), judge="gpt-4o-mini")
    ]
    for step in range(1, outcome.steps + 1):
        events += step_events(
            step, outcome.planned_steps, rows=2, reward_range=(0.0, outcome.highest)
        )
    if outcome.status is None:
        return events
    events.append(
        ev.EvaluationFinished(
            when="after", step=2, prompts=30, harmless=80, harmless_complied=outcome.answered,
            harmless_partial=0, harmless_refused=80 - outcome.answered, unsafe=40,
            unsafe_refused=outcome.declined, classifier="offline", seconds=1.0,
        )
    )  # fmt: skip
    code = {"done": 0, "out_of_memory": 4, "judge_unavailable": 3, "interrupted": 130}
    ended = run_ended(outcome.status, outcome.message, code=code.get(outcome.status, 1))
    events.append(
        replace(ended, steps_done=outcome.steps, reward_first=0.25, reward_last=outcome.reward,
                seconds=outcome.seconds, cost=outcome.cost)
    )  # fmt: skip
    return events
