"""Read a run's records while another process writes them."""

from __future__ import annotations

from pathlib import Path

from ida_tui.events.types import Record
from ida_tui.runs.log.lines import decoded


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
        """The records that are complete by now, at most so many; never waits, leaves a torn tail.

        Raises:
            EventError: a whole line is no event; the message names file and byte. The next call goes on
                after it.
            OSError: the file cannot be read.
        """
        records: list[Record] = []
        try:
            file = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return records
        with file:
            file.seek(self.offset)
            while len(records) < most:
                raw = file.readline()
                if not raw.endswith(b"\n"):
                    break
                where = f"{self._path}: byte {self.offset}"
                self.offset += len(raw)
                if raw.strip():
                    records.append(decoded(raw, where))
        return records
