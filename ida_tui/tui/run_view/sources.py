"""Where the records of the run on the screen come from: this process, another one, or the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ida_tui.errors import IdaError
from ida_tui.events.types import EventError, Record, RunEnded
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower

if TYPE_CHECKING:
    from ida_tui.engine.session import Session

Kind = Literal["live", "attached", "replay"]
"""Trained in this process, followed while another process trains it, or read back from disk."""

SILENCE = 8
"""After so many looks at a file that did not grow, its process is looked for: two seconds."""


class Source(Protocol):
    """Gives the records of one run, in order, without ever waiting."""

    @property
    def kind(self) -> Kind:
        """What the run is to this process."""

    @property
    def directory(self) -> Path | None:
        """Where the run is kept, if that is known before its first record."""

    @property
    def finished(self) -> bool:
        """True once no record will come any more."""

    @property
    def refusal(self) -> IdaError | None:
        """What kept the run from starting, if anything did."""

    def records(self, most: int) -> list[Record]:
        """The next records, at most so many."""


class LiveSource:
    """A run that this process trains."""

    kind: Kind = "live"
    directory: Path | None = None

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def finished(self) -> bool:
        """True once the trainer's thread has ended and every record was read."""
        return self.session.finished

    @property
    def refusal(self) -> IdaError | None:
        """What kept the run from starting, if anything did."""
        return self.session.refusal

    def records(self, most: int) -> list[Record]:
        """The next records, at most so many."""
        return self.session.drain(most)


class AttachedSource:
    """A run that another process trains; its file grows under us.

    It is over when its last event has come, or when nothing comes any more and its process is gone.
    """

    kind: Kind = "attached"

    def __init__(self, directory: RunDirectory, offset: int) -> None:
        self.directory: Path | None = directory.path
        self.refusal: IdaError | None = None
        self.finished = False
        self._run = directory
        self._follower = Follower(directory.events, offset)
        self._silent = 0

    def records(self, most: int) -> list[Record]:
        """The next records, at most so many."""
        if self.finished:
            return []
        try:
            records = self._follower.read(most)
        except (EventError, OSError) as error:
            self.refusal = IdaError(f"the run cannot be followed any more: {error}")
            self.finished = True
            return []
        self._silent = 0 if records else self._silent + 1
        if any(isinstance(record.event, RunEnded) for record in records):
            self.finished = True
        elif self._silent and self._silent % SILENCE == 0:
            from ida_tui.runs import owner

            self.finished = not owner.alive(self._run)
        return records


class ReplaySource:
    """A run that has ended; everything is known from the start."""

    kind: Kind = "replay"
    refusal: IdaError | None = None
    finished = True

    def __init__(self, directory: RunDirectory) -> None:
        self.directory: Path | None = directory.path

    def records(self, most: int) -> list[Record]:
        """Nothing: the end was folded when the run was opened."""
        return []
