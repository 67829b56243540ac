"""Incremental reading of a run's events while another process writes them."""

from __future__ import annotations

from pathlib import Path

from ida_tui.events.types import Record
from ida_tui.runs.log.lines import decode_line


class Follower:
    """Reads the records that were appended to an ``events.jsonl`` since the last call.

    Args:
        path: the file; it may not exist yet.
        offset: byte at which to start; the start of a line.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset

    def read(self, limit: int = 5000) -> list[Record]:
        """The new complete records, at most `most`; never blocks, and leaves an incomplete last line.

        Raises:
            EventError: a complete line is not an event; the message names file and byte. The next call
                continues after that line.
            OSError: the file cannot be read.
        """
        records: list[Record] = []
        try:
            file = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return records
        with file:
            file.seek(self.offset)
            while len(records) < limit:
                raw = file.readline()
                if not raw.endswith(b"\n"):
                    break
                where = f"{self._path}: byte {self.offset}"
                self.offset += len(raw)
                if raw.strip():
                    records.append(decode_line(raw, where))
        return records
