"""Sources of the displayed run's records: a run of the app, one of another process, or the files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ida_tui.errors import IdaError
from ida_tui.events.codec import EventError
from ida_tui.events.types import Record, RunEnded
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower

if TYPE_CHECKING:
    from ida_tui.engine.session import Session

SourceKind = Literal["live", "attached", "replay"]
"""Trained by this app, trained by another process and followed here, or finished and read from disk."""

SILENT_READS = 8
"""Reads without new records after which to check whether the owner process is alive: two seconds."""


class RecordSource(Protocol):
    """Returns the records of one run in order, without blocking."""

    @property
    def kind(self) -> SourceKind:
        """Where the records come from."""

    @property
    def directory(self) -> Path | None:
        """The run directory, if it is known before the first record."""

    @property
    def finished(self) -> bool:
        """Whether all records have been read and no more will follow."""

    @property
    def error(self) -> IdaError | None:
        """Why the run could not start or be followed, if it could not."""

    def next_records(self, limit: int) -> list[Record]:
        """The next records, at most `limit`."""


class LiveSource:
    """A run that this app trains."""

    kind: SourceKind = "live"
    directory: Path | None = None

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def finished(self) -> bool:
        """Whether the run has ended or was handed over, and every record has been read."""
        return self.session.finished

    @property
    def error(self) -> IdaError | None:
        """Why the run could not start, if it could not."""
        return self.session.start_error

    def next_records(self, limit: int) -> list[Record]:
        """The next records, at most `limit`."""
        return self.session.drain(limit)


class AttachedSource:
    """A run that another process trains; read from its growing event log.

    It is finished after its last event, or when no records arrive and its process is gone.
    """

    kind: SourceKind = "attached"

    def __init__(self, directory: RunDirectory, offset: int) -> None:
        self.directory: Path | None = directory.path
        self.error: IdaError | None = None
        self.finished = False
        self._run = directory
        self._follower = Follower(directory.events, offset)
        self._silent_reads = 0

    def next_records(self, limit: int) -> list[Record]:
        """The next records, at most `limit`."""
        if self.finished:
            return []
        try:
            records = self._follower.read(limit)
        except (EventError, OSError) as error:
            self.error = IdaError(f"could not read new events of the run: {error}")
            self.finished = True
            return []
        self._silent_reads = 0 if records else self._silent_reads + 1
        if any(isinstance(record.event, RunEnded) for record in records):
            self.finished = True
        elif self._silent_reads and self._silent_reads % SILENT_READS == 0:
            from ida_tui.runs import owner

            self.finished = not owner.is_alive(self._run)
        return records


class ReplaySource:
    """A finished run, read in full when it was opened."""

    kind: SourceKind = "replay"
    error: IdaError | None = None
    finished = True

    def __init__(self, directory: RunDirectory) -> None:
        self.directory: Path | None = directory.path

    def next_records(self, limit: int) -> list[Record]:
        """Always empty: the full log was folded when the run was opened."""
        return []
