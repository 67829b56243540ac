"""The run shown in the app: where its records come from, its current state, and the step being viewed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold_all
from ida_tui.tui.run_view.sources import RecordSource

if TYPE_CHECKING:
    from ida_tui.runs.log.replay import Replay

EventTypes = frozenset[type[ev.Event]]
"""Types of the events since the last update."""

RECORD_BATCH = 100
"""Records folded between two checks of the time budget."""
FOLD_BUDGET_S = 0.015
"""Longest time in seconds that folding may block the screen; the rest follows in the next call."""


class NewRecords(NamedTuple):
    """Result of folding new records."""

    changed: EventTypes
    """Types of their events."""
    more_waiting: bool


@dataclass(slots=True)
class RunView:
    """One run: live, attached, or replayed, behind one interface."""

    source: RecordSource
    state: RunState = field(default_factory=RunState)
    """The newest state."""
    replay: Replay | None = None
    """Index of the earlier steps, if the run was opened from disk."""
    viewed_state: RunState | None = None
    """The earlier state being viewed; None shows the newest."""
    stop_requested: bool = False
    pause_requested: bool = False
    handing_over: bool = False
    """Whether the run is about to go on in the background."""
    place: str = ""
    """Address of a run of another machine, whose directory is a copy; empty for other runs."""
    started_at: datetime | None = None
    """When the user started it; its first event follows seconds later."""

    @property
    def displayed_state(self) -> RunState:
        """The state that the screens show."""
        return self.viewed_state or self.state

    @property
    def is_live(self) -> bool:
        """Whether this process is training the run."""
        return self.source.kind == "live" and self.in_progress

    @property
    def in_progress(self) -> bool:
        """Whether the run is still in progress, here or in another process."""
        return not self.source.finished and self.state.ended is None

    @property
    def directory(self) -> Path | None:
        """The run directory; None before a live run has created it."""
        if self.source.directory is not None:
            return self.source.directory
        return Path(self.state.run.directory) if self.state.run else None

    @property
    def error(self) -> IdaError | None:
        """Why the run could not start or be followed, if it could not."""
        return self.source.error

    def fold_new_records(self) -> NewRecords:
        """Fold new records into the state."""
        changed: set[type[ev.Event]] = set()
        deadline = time.monotonic() + FOLD_BUDGET_S
        while True:
            records = self.source.next_records(RECORD_BATCH)
            self.state = fold_all(records, self.state)
            changed.update(type(record.event) for record in records)
            if len(records) < RECORD_BATCH:
                return NewRecords(frozenset(changed), more_waiting=False)
            if time.monotonic() > deadline:
                return NewRecords(frozenset(changed), more_waiting=True)
