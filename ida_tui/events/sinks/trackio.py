"""Trackio on this machine: its own SQLite file, where ``trackio show`` finds it.

`trackio.init` prints, starts threads and follows variables to servers elsewhere; its storage does none of it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import Note, Place, Settings, figures, figures_of


class Trackio:
    """A project an experiment, a run a run."""

    name = "trackio"

    def __init__(self) -> None:
        self._storage: Any = None
        self._project = self._run = ""
        self._settings: Settings | None = None

    def start(self, place: Place) -> str:
        """Find the project; of a run that goes on, forget the steps that are done again."""
        from trackio.sqlite_storage import SQLiteStorage

        self._storage = SQLiteStorage
        self._project, self._run, self._settings = place.experiment, place.run_id, place.settings
        SQLiteStorage.validate_project_name(self._project)
        if place.resumed_from is not None:
            self._settings = None
            path = SQLiteStorage.init_db(self._project)
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
                forget = "DELETE FROM metrics WHERE run_name = ? AND step > ?"
                database.execute(forget, (self._run, place.resumed_from))
        return ""

    def step(self, step: ev.StepFinished) -> None:
        """Keep the figures of a step."""
        self._log(step.step, figures(step))

    def note(self, note: Note) -> None:
        """Keep its figures at its step."""
        self._log(note.step, figures_of(note))

    def end(self, ended: ev.RunEnded) -> str:
        """Nothing is open; say how to look at it."""
        return f"Trackio: trackio show --project {self._project}"

    def _log(self, step: int, found: Mapping[str, float]) -> None:
        self._storage.bulk_log(
            self._project,
            self._run,
            [dict(found)],
            steps=[step],
            timestamps=[datetime.now(UTC).isoformat()],
            config=dict(self._settings) if self._settings is not None else None,
        )
        self._settings = None
