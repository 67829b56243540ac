"""Reading of all events of a run, also while it is being written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ida_tui.events import types as ev


def read_events(path: Path) -> Iterator[ev.Record]:
    """Iterate over the records of an ``events.jsonl`` without holding them all in memory.

    An incomplete last line (the process died while writing, or is still writing) ends the iteration; it is
    not an error.

    Raises:
        ev.EventError: a complete line is not an event; the message names file and line.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            if raw.strip():
                yield decode_line(raw, f"{path}:{number}")


def decode_line(raw: bytes, location: str) -> ev.Record:
    """The record in one complete line.

    Args:
        raw: the line as stored on disk.
        where: location of the line, for the error message.

    Raises:
        ev.EventError: the line is not an event.
    """
    try:
        return ev.decode(raw.decode("utf-8"))
    except (ev.EventError, UnicodeDecodeError) as error:
        raise ev.EventError(f"{location}: {error}") from None
