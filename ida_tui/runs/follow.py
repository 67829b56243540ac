"""Read a run's records while another process writes them."""

from __future__ import annotations

from pathlib import Path

from ida_tui.events import Record


class Follower:
    """Reads what was appended to an ``events.jsonl`` since the last time.

    Args:
        path: the file; it may not be there yet.
        offset: byte at which to start, after a whole line.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset

    def read(self, most: int = 5000) -> list[Record]:
        """The records that are complete by now, at most so many; never waits, leaves a torn tail."""
        return []
