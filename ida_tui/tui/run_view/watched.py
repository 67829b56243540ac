"""The run on the screen: what is known of it, and how it is brought up to date."""

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
"""Types of the events that came since the last time."""

BATCH = 250
"""Records that are folded between two looks at the clock."""
BUDGET_S = 0.04
"""How long folding may keep the screen waiting; what is left is taken up at once afterwards."""


@dataclass(slots=True)
class Watched:
    """One run, live, attached or replayed: from here on they look the same."""

    source: Source
    state: RunState = field(default_factory=RunState)
    """What is known; of a run that goes on, up to now."""
    replay: Replay | None = None
    """The steps to look back at, where the run was opened from disk."""
    viewed: RunState | None = None
    """An earlier state that somebody looks at; None shows the newest."""
    stop_asked: bool = False
    pause_asked: bool = False
    handing_over: bool = False
    """Another process is to go on with it."""
    begun: datetime | None = None
    """When this process was asked to start it; its first event comes seconds later."""

    @property
    def shown(self) -> RunState:
        """What the screens show."""
        return self.viewed or self.state

    @property
    def live(self) -> bool:
        """Whether this process trains it, and has not finished."""
        return self.source.kind == "live" and self.going_on

    @property
    def going_on(self) -> bool:
        """Whether more may happen, here or in another process."""
        return not self.source.finished and self.state.ended is None

    @property
    def directory(self) -> Path | None:
        """Where the run is kept; None before a live run has made its directory."""
        if self.source.directory is not None:
            return self.source.directory
        return Path(self.state.run.directory) if self.state.run else None

    @property
    def refusal(self) -> IdaError | None:
        """What kept the run from starting, if anything did."""
        return self.source.refusal

    def advance(self) -> tuple[Changed, bool]:
        """Fold what has come; returns the types of the events, and whether more is waiting."""
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
