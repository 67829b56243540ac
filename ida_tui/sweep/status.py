"""Status of the runs of a sweep, read from their run directories while they train and afterwards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.events.codec import EventError
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.types import RunEndStatus
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store.json_files import read_json
from ida_tui.sweep.directory import Sweep

TrialStage = Literal["waiting", "live", "died", "refused", "unreadable", "pruned"] | RunEndStatus
"""Not started; running; died without an end record; could not start; cannot be read; stopped by a search
because of its reward; or how it ended."""
UNFINISHED_STAGES: tuple[TrialStage, ...] = (
    "waiting",
    "live",
    "died",
    "interrupted",
    "judge_unavailable",
)
"""Stages in which the run is not finished."""
_STOPPED_STAGES: tuple[TrialStage, ...] = ("died", "interrupted", "judge_unavailable")
"""Stages of a run that a search has stopped."""


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """A combination and the status of its run."""

    number: int
    """Number of the combination, from 0."""
    values: Mapping[str, str]
    stage: TrialStage
    run: Path | None = None
    """The run directory; None before the run starts."""
    state: RunState | None = None
    """The state of the run; None before it starts or if it cannot be read."""
    problem: str = ""
    """Why it could not start or cannot be read; otherwise empty."""

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished, whatever its result."""
        return self.stage not in UNFINISHED_STAGES

    @property
    def reward(self) -> float | None:
        """Mean reward of the last steps, or of the last steps so far."""
        if self.state is None:
            return None
        ended = self.state.ended
        return ended.reward_last if ended is not None else self.state.reward_last

    @property
    def cost(self) -> float | None:
        """Judge cost so far in US dollars; None if unknown."""
        if self.state is None:
            return 0.0
        return self.state.ended.cost if self.state.ended is not None else self.state.judge.cost


class _RunReader:
    """Incremental reader of one run."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._state = RunState()
        self._follower: Follower | None = None

    def refresh(self) -> RunState:
        """Read new records and return the current state of the run.

        Raises:
            EventError: a line is not an event.
            OSError: the file cannot be read.
        """
        events = self.directory.events
        if self._follower is None or events.stat().st_size < self._follower.offset:
            replay = Replay.open(events)
            self._state, self._follower = replay.final_state, Follower(events, replay.offset)
        while records := self._follower.read():
            self._state = fold_all(records, self._state)
        return self._state


class SweepReader:
    """Incremental reader of the runs of one sweep.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._runs: dict[int, _RunReader] = {}
        self._unrelated: set[str] = set()
        """Names of run directories that do not belong to this sweep."""

    def read_all(self) -> list[TrialStatus]:
        """The status of every combination, in order. Never raises."""
        self._find_runs()
        return [self._read_status(number) for number in range(len(self.sweep.combinations))]

    def read_one(self, number: int) -> TrialStatus:
        """The status of one combination. Never raises."""
        if number not in self._runs:
            self._find_runs()
        return self._read_status(number)

    def _find_runs(self) -> None:
        """Assign new run directories to combinations, based on their manifests."""
        self._runs = {n: run for n, run in self._runs.items() if run.directory.events.exists()}
        assigned = {run.directory.run_id for run in self._runs.values()}
        try:
            with os.scandir(self.sweep.runs_folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            return
        for name in names:
            if name in self._unrelated or name in assigned:
                continue
            directory = RunDirectory(self.sweep.runs_folder / name)
            number = self._combination_number(directory)
            # The first run counts: later runs were started from the same profile by hand.
            if number is not None and number not in self._runs and directory.events.exists():
                self._runs[number] = _RunReader(directory)

    def _combination_number(self, directory: RunDirectory) -> int | None:
        try:
            manifest = read_json(directory.manifest)
        except (OSError, ValueError):
            return None  # it may not be written yet
        command = manifest.get("command") if isinstance(manifest, dict) else None
        number = self.sweep.number_of(command)
        if number is None:
            self._unrelated.add(directory.run_id)
        return number

    def _read_status(self, number: int) -> TrialStatus:
        values = self.sweep.combinations[number].values
        run = self._runs.get(number)
        if run is None:
            problem = start_failure(self.sweep, number)
            return TrialStatus(number, values, "refused" if problem else "waiting", problem=problem)
        path = run.directory.path
        # Checked before the file is read, so that the last records of the run are not missed.
        alive = owner.is_alive(run.directory)
        try:
            state = run.refresh()
        except (EventError, OSError) as error:
            return TrialStatus(number, values, "unreadable", path, problem=str(error))
        stage: TrialStage = "live" if alive else "died"
        if state.ended is not None:
            stage = state.ended.status
        if stage in _STOPPED_STAGES and self.sweep.pruned_file(number).exists():
            stage = "pruned"
        return TrialStatus(number, values, stage, path, state)


def start_failure(sweep: Sweep, number: int) -> str:
    """Why the run of a combination could not start; empty if it did, or if it was not tried."""
    try:
        data = read_json(sweep.failure_file(number))
    except (OSError, ValueError):
        return ""
    reason = data.get("said") if isinstance(data, dict) else None
    return reason if isinstance(reason, str) and reason else ""
