"""How the runs of a sweep stand, read from their own files: also while they are trained, and years later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.events.state import RunState, fold
from ida_tui.events.types import EventError, Status
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store.json_files import read_json
from ida_tui.sweep.directory import Sweep

Stage = Literal["waiting", "live", "died", "refused", "unreadable"] | Status
"""Not begun; trained now; how it ended; gone without a word; could not begin; cannot be read."""
OPEN: tuple[Stage, ...] = ("waiting", "live", "died", "interrupted", "judge_unavailable")
"""There is something left to do."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One combination, and what became of it."""

    number: int
    """From 0."""
    values: Mapping[str, str]
    stage: Stage
    run: Path | None = None
    """The run's directory, once there is one."""
    state: RunState | None = None
    """What is known of the run."""
    problem: str = ""
    """Why it could not begin, or cannot be read."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.stage not in OPEN

    @property
    def r_ida(self) -> float | None:
        """Mean reward of its last steps, or of those so far."""
        if self.state is None:
            return None
        ended = self.state.ended
        return ended.r_ida_last if ended is not None else self.state.r_ida_last

    @property
    def cost(self) -> float | None:
        """US dollars that its judge has cost so far; None where that is not known."""
        if self.state is None:
            return 0.0
        return self.state.ended.cost if self.state.ended is not None else self.state.judge.cost


class _Run:
    """One run, read once from its beginning and then as it grows."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._state = RunState()
        self._follower: Follower | None = None

    def look(self) -> RunState:
        """The run as it is now.

        Raises:
            EventError: a line is no event.
            OSError: it cannot be read.
        """
        events = self.directory.events
        if self._follower is None or events.stat().st_size < self._follower.offset:
            replay = Replay.open(events)
            self._state, self._follower = replay.end, Follower(events, replay.offset)
        while records := self._follower.read():
            for record in records:
                self._state = fold(self._state, record)
        return self._state


class Reader:
    """The runs of one sweep; what was read once is not read again.

    Args:
        sweep: whose runs are looked at.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._found: dict[int, _Run] = {}
        self._others: set[str] = set()
        """Folders that hold no run of this sweep."""

    def all(self) -> list[Standing]:
        """Every combination, in order. Never raises."""
        self._search()
        return [self._standing(number) for number in range(len(self.sweep.combinations))]

    def one(self, number: int) -> Standing:
        """One combination. Never raises."""
        if number not in self._found:
            self._search()
        return self._standing(number)

    def _search(self) -> None:
        """Look into the runs that were not looked into before: their manifests say what they are of."""
        self._found = {n: run for n, run in self._found.items() if run.directory.events.exists()}
        taken = {run.directory.run_id for run in self._found.values()}
        try:
            with os.scandir(self.sweep.runs) as entries:
                names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            return
        for name in names:
            if name in self._others or name in taken:
                continue
            directory = RunDirectory(self.sweep.runs / name)
            number = self._number(directory)
            # The first one counts: a later one was started from the same profile by hand.
            if number is not None and number not in self._found and directory.events.exists():
                self._found[number] = _Run(directory)

    def _number(self, directory: RunDirectory) -> int | None:
        try:
            manifest = read_json(directory.manifest)
        except (OSError, ValueError):
            return None  # it may be written in a moment
        command = manifest.get("command") if isinstance(manifest, dict) else None
        number = self.sweep.number_of(command)
        if number is None:
            self._others.add(directory.run_id)
        return number

    def _standing(self, number: int) -> Standing:
        values = self.sweep.combinations[number].values
        run = self._found.get(number)
        if run is None:
            said = refusal(self.sweep, number)
            return Standing(number, values, "refused" if said else "waiting", problem=said)
        path = run.directory.path
        # Looked at before the file is read: what it wrote last is not missed.
        alive = owner.alive(run.directory)
        try:
            state = run.look()
        except (EventError, OSError) as error:
            return Standing(number, values, "unreadable", path, problem=str(error))
        stage: Stage = "live" if alive else "died"
        if state.ended is not None:
            stage = state.ended.status
        return Standing(number, values, stage, path, state)


def refusal(sweep: Sweep, number: int) -> str:
    """Why the run of a combination could not begin; empty where it could, or was not tried."""
    try:
        found = read_json(sweep.refusal(number))
    except (OSError, ValueError):
        return ""
    said = found.get("said") if isinstance(found, dict) else None
    return said if isinstance(said, str) and said else ""
