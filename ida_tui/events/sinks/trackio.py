"""Trackio sink: writes to Trackio's local SQLite file, which `trackio show` displays.

It uses Trackio's storage directly, because `trackio.init` prints, starts threads and can connect to remote
servers that environment variables name.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo, Settings, SinkEvent, event_metrics, step_metrics


class TrackioSink:
    """Writes each run to the Trackio project of its experiment."""

    name = "trackio"

    def __init__(self) -> None:
        self._storage: Any = None
        self._project = self._run = ""
        self._settings: Settings | None = None

    def start(self, run: RunInfo) -> str:
        """Open the project; after a resume, delete the steps after the checkpoint."""
        from trackio.sqlite_storage import SQLiteStorage

        self._storage = SQLiteStorage
        self._project, self._run, self._settings = run.experiment, run.run_id, run.settings
        SQLiteStorage.validate_project_name(self._project)
        if run.resumed_from is not None:
            self._settings = None
            path = SQLiteStorage.init_db(self._project)
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
                statement = "DELETE FROM metrics WHERE run_name = ? AND step > ?"
                database.execute(statement, (self._run, run.resumed_from))
        return ""

    def step(self, step: ev.StepFinished) -> None:
        """Store the metrics of a step."""
        self._store_metrics(step.step, step_metrics(step))

    def note(self, note: SinkEvent) -> None:
        """Store the metrics of an evaluation or an alert at its step."""
        self._store_metrics(note.step, event_metrics(note))

    def end(self, ended: ev.RunEnded) -> str:
        """Return the command that shows the project; there is nothing to close."""
        return f"Trackio: trackio show --project {self._project}"

    def _store_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._storage.bulk_log(
            self._project,
            self._run,
            [dict(metrics)],
            steps=[step],
            timestamps=[datetime.now(UTC).isoformat()],
            config=dict(self._settings) if self._settings is not None else None,
        )
        self._settings = None
