"""Status of the runs of a sweep, read from their run directories while they train and afterwards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.events.state import RunState, fold
from ida_tui.events.types import EventError, RunEndStatus
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store.json_files import read_json
from ida_tui.sweep.directory import Sweep

Stage = Literal["waiting", "live", "died", "refused", "unreadable"] | RunEndStatus
"""Not started; running; died without an end record; could not start; cannot be read; or how it ended."""
OPEN: tuple[Stage, ...] = ("waiting", "live", "died", "interrupted", "judge_unavailable")
"""Stages in which the run is not finished."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A combination and the status of its run."""

    number: int
    """Number of the combination, from 0."""
    values: Mapping[str, str]
    stage: Stage
    run: Path | None = None
    """The run directory; None before the run starts."""
    state: RunState | None = None
    """The state of the run; None before it starts or if it cannot be read."""
    problem: str = ""
    """Why it could not start or cannot be read; otherwise empty."""

    @property
    def over(self) -> bool:
        """Whether the run is finished, whatever its result."""
        return self.stage not in OPEN

    @property
    def r_ida(self) -> float | None:
        """Mean reward of the last steps, or of the last steps so far."""
        if self.state is None:
            return None
        ended = self.state.ended
        return ended.r_ida_last if ended is not None else self.state.r_ida_last

    @property
    def cost(self) -> float | None:
        """Judge cost so far in US dollars; None if unknown."""
        if self.state is None:
            return 0.0
        return self.state.ended.cost if self.state.ended is not None else self.state.judge.cost


class _Run:
    """Incremental reader of one run."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._state = RunState()
        self._follower: Follower | None = None

    def look(self) -> RunState:
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
            for record in records:
                self._state = fold(self._state, record)
        return self._state


class Reader:
    """Incremental reader of the runs of one sweep.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._found: dict[int, _Run] = {}
        self._others: set[str] = set()
        """Names of run directories that do not belong to this sweep."""

    def all(self) -> list[Standing]:
        """The status of every combination, in order. Never raises."""
        self._search()
        return [self._standing(number) for number in range(len(self.sweep.combinations))]

    def one(self, number: int) -> Standing:
        """The status of one combination. Never raises."""
        if number not in self._found:
            self._search()
        return self._standing(number)

    def _search(self) -> None:
        """Assign new run directories to combinations, based on their manifests."""
        self._found = {n: run for n, run in self._found.items() if run.directory.events.exists()}
        assigned = {run.directory.run_id for run in self._found.values()}
        try:
            with os.scandir(self.sweep.runs) as entries:
                names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            return
        for name in names:
            if name in self._others or name in assigned:
                continue
            directory = RunDirectory(self.sweep.runs / name)
            number = self._number(directory)
            # The first run counts: later runs were started from the same profile by hand.
            if number is not None and number not in self._found and directory.events.exists():
                self._found[number] = _Run(directory)

    def _number(self, directory: RunDirectory) -> int | None:
        try:
            manifest = read_json(directory.manifest)
        except (OSError, ValueError):
            return None  # it may not be written yet
        command = manifest.get("command") if isinstance(manifest, dict) else None
        number = self.sweep.number_of(command)
        if number is None:
            self._others.add(directory.run_id)
        return number

    def _standing(self, number: int) -> Standing:
        values = self.sweep.combinations[number].values
        run = self._found.get(number)
        if run is None:
            problem = refusal(self.sweep, number)
            return Standing(number, values, "refused" if problem else "waiting", problem=problem)
        path = run.directory.path
        # Checked before the file is read, so that the last records of the run are not missed.
        alive = owner.is_alive(run.directory)
        try:
            state = run.look()
        except (EventError, OSError) as error:
            return Standing(number, values, "unreadable", path, problem=str(error))
        stage: Stage = "live" if alive else "died"
        if state.ended is not None:
            stage = state.ended.status
        return Standing(number, values, stage, path, state)


def refusal(sweep: Sweep, number: int) -> str:
    """Why the run of a combination could not start; empty if it did, or if it was not tried."""
    try:
        data = read_json(sweep.refusal(number))
    except (OSError, ValueError):
        return ""
    reason = data.get("said") if isinstance(data, dict) else None
    return reason if isinstance(reason, str) and reason else ""
