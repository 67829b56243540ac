"""Run shown in the app: its record source, its folded state, and the step being viewed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold
from ida_tui.tui.run_view.sources import Source

if TYPE_CHECKING:
    from ida_tui.runs.log.replay import Replay

Changed = frozenset[type[ev.Event]]
"""Types of the events since the last update."""

BATCH = 250
"""Records folded between two checks of the time budget."""
BUDGET_S = 0.04
"""Longest time in seconds that folding may block the screen; the rest follows in the next call."""


@dataclass(slots=True)
class Watched:
    """One run: live, attached, or replayed, behind one interface."""

    source: Source
    state: RunState = field(default_factory=RunState)
    """The newest state."""
    replay: Replay | None = None
    """Index of the earlier steps, if the run was opened from disk."""
    viewed: RunState | None = None
    """The earlier state being viewed; None shows the newest."""
    stop_asked: bool = False
    pause_asked: bool = False
    handing_over: bool = False
    """Whether a background process is about to take over the run."""
    begun: datetime | None = None
    """When the user started it; its first event follows seconds later."""

    @property
    def shown(self) -> RunState:
        """The state that the screens show."""
        return self.viewed or self.state

    @property
    def live(self) -> bool:
        """Whether this process is training the run."""
        return self.source.kind == "live" and self.going_on

    @property
    def going_on(self) -> bool:
        """Whether the run is still in progress, here or in another process."""
        return not self.source.finished and self.state.ended is None

    @property
    def directory(self) -> Path | None:
        """The run directory; None before a live run has created it."""
        if self.source.directory is not None:
            return self.source.directory
        return Path(self.state.run.directory) if self.state.run else None

    @property
    def refusal(self) -> IdaError | None:
        """Why the run could not start or be followed, if it could not."""
        return self.source.refusal

    def advance(self) -> tuple[Changed, bool]:
        """Fold new records; returns the types of their events, and whether more records are waiting."""
        changed: set[type[ev.Event]] = set()
        deadline = time.monotonic() + BUDGET_S
        while True:
            records = self.source.records(BATCH)
            for record in records:
                self.state = fold(self.state, record)
                changed.add(type(record.event))
            if len(records) < BATCH:
                return frozenset(changed), False
            if time.monotonic() > deadline:
                return frozenset(changed), True
