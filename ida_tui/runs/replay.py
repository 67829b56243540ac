"""Open a run from disk: its end at once, and any earlier step when somebody looks back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ida_tui.runs.reader import read_events
from ida_tui.state import RunState, fold_all


@dataclass(frozen=True, slots=True)
class Replay:
    """A run read back from its ``events.jsonl``."""

    path: Path
    end: RunState
    """The state after the last whole record; equal to folding every record."""
    offset: int
    """Byte after the last whole record; a `Follower` goes on from here."""
    steps: tuple[int, ...]
    """The finished steps, in order."""

    @classmethod
    def open(cls, path: Path) -> Replay:
        """Read a run back.

        Raises:
            OSError: the file cannot be read.
            EventError: a line in the middle is no event.
        """
        end = fold_all(read_events(path))
        return cls(path, end, path.stat().st_size, tuple(step.step for step in end.steps))

    def at(self, step: int) -> RunState:
        """The state right after a step had finished."""
        return self.end
