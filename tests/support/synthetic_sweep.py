"""Sweeps whose runs were never trained: for tests of what reads and shows them."""

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
class Made:
    """What a run is to have come to."""

    r_ida: float = 0.5
    declined: int = 40
    """Of 40 unsafe requests."""
    answered: int = 80
    """Of 80 harmless ones."""
    status: ev.RunEndStatus | None = "done"
    """None for a run that has not ended."""
    steps: int = 2
    seconds: float = 30.0
    cost: float | None = 0.01
    message: str = "Training complete"


def sweep(
    keys: Mapping[str, Sequence[str]],
    made: Sequence[Made | None],
    *,
    sweep_id: str = "20260131-090000",
    budget: float | None = None,
) -> Sweep:
    """A sweep of quickstart below ``outputs``, with what became of its first combinations.

    Args:
        keys: what is varied.
        made: a run for each of the first combinations; None for one that has not begun.
        sweep_id: its name.
        budget: US dollars for all of it.
    """
    path = (Path("outputs") / SWEEPS_FOLDER / sweep_id).absolute()
    (path / "configs").mkdir(parents=True)
    (path / "logs").mkdir()
    grid = SweepGrid({key: tuple(values) for key, values in keys.items()}, ())
    combinations = tuple(Combination(values, 1.4e9, 24e9) for values in grid.combinations)
    one = Sweep(path, "quickstart", "quickstart", grid.keys, (), combinations, budget=budget)
    save(one)
    for number, run in enumerate(made):
        if run is not None:
            add_run(one, number, run)
    return one


def add_run(one: Sweep, number: int, run: Made) -> RunDirectory:
    """The run of a combination, as if it had been trained."""
    directory = RunDirectory(one.runs_folder / f"20260131-0901{number:02}")
    directory.logs.mkdir(parents=True)
    command = ["ida-tui", "--run", str(one.config_file(number))]
    directory.manifest.write_text(json.dumps({"command": command}))
    with open(directory.events, "w", encoding="utf-8") as events:
        for seq, event in enumerate(_events(directory.path, run)):
            events.write(
                codec.encode(ev.Record(seq, f"2026-01-31T09:01:{seq % 60:02}.000Z", event)) + "\n"
            )
    return directory


def _events(path: Path, run: Made) -> list[ev.Event]:
    found: list[ev.Event] = [replace(run_started(path, 2), judge="gpt-4o-mini")]
    for step in range(1, run.steps + 1):
        found += step_events(step, 2, rows=2)
    if run.status is None:
        return found
    found.append(
        ev.EvaluationFinished(
            when="after", step=2, prompts=30, harmless=80, harmless_complied=run.answered,
            harmless_partial=0, harmless_refused=80 - run.answered, unsafe=40,
            unsafe_refused=run.declined, classifier="offline", seconds=1.0,
        )
    )  # fmt: skip
    code = {"done": 0, "out_of_memory": 4, "judge_unavailable": 3, "interrupted": 130}
    ended = run_ended(run.status, run.message, code=code.get(run.status, 1))
    found.append(
        replace(ended, steps_done=run.steps, r_ida_first=0.25, r_ida_last=run.r_ida,
                seconds=run.seconds, cost=run.cost)
    )  # fmt: skip
    return found
