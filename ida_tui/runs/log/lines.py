"""Read a run back from its directory, also while it is being written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ida_tui.events import types as ev


def read_events(path: Path) -> Iterator[ev.Record]:
    """The records of an ``events.jsonl``, in order, without holding them all in memory.

    A torn last line (the process died while writing, or is writing now) ends the run of records; it
    is data that is not there yet, not an error.

    Raises:
        ev.EventError: a line that is followed by others is no event; the message names file and line.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            if raw.strip():
                yield decoded(raw, f"{path}:{number}")


def decoded(raw: bytes, where: str) -> ev.Record:
    """The record that one whole line holds.

    Args:
        raw: the line, as it is on disk.
        where: its place, for the error.

    Raises:
        ev.EventError: it is no event.
    """
    try:
        return ev.decode(raw.decode("utf-8"))
    except (ev.EventError, UnicodeDecodeError) as error:
        raise ev.EventError(f"{where}: {error}") from None
