"""Event log reader: complete or incremental, and safe while another process is writing the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ida_tui.events import codec
from ida_tui.events.types import Record
from ida_tui.util.safe_files import iterate_lines, open_regular


def read_events(path: Path) -> Iterator[Record]:
    """Iterate over the records of an `events.jsonl` without holding them all in memory.

    An incomplete last line (the process died while writing, or is still writing) ends the iteration; it is
    not an error.

    Raises:
        EventError: a complete line is not an event; the message names file and line.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        for number, raw in enumerate(iterate_lines(file), start=1):
            if not raw.endswith(b"\n"):
                return
            if raw.strip():
                yield decode_line(raw, f"{path}:{number}")


class Follower:
    """Reads the records that were appended to an `events.jsonl` since the last call.

    Args:
        path: the file; it may not exist yet.
        offset: byte at which to start; the start of a line.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset

    def read(self, limit: int = 5000) -> list[Record]:
        """The new complete records, at most `limit`; never blocks, and leaves an incomplete last line.

        Raises:
            EventError: a complete line is not an event; the message names file and byte. The next call
                continues after that line.
            OSError: the file cannot be read.
        """
        records: list[Record] = []
        try:
            file = open_regular(self._path)
        except FileNotFoundError:
            return records
        with file:
            file.seek(self.offset)
            lines = iterate_lines(file)
            while len(records) < limit:
                raw = next(lines, b"")
                if not raw.endswith(b"\n"):
                    break
                location = f"{self._path}: byte {self.offset}"
                self.offset += len(raw)
                if raw.strip():
                    records.append(decode_line(raw, location))
        return records


def decode_line(raw: bytes, location: str) -> Record:
    """The record in one complete line.

    Args:
        raw: the line as stored on disk.
        location: location of the line, for the error message.

    Raises:
        EventError: the line is not an event.
    """
    try:
        return codec.decode_bytes(raw)
    except codec.EventError as error:
        raise codec.EventError(f"{location}: {error}") from None
