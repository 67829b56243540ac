"""Crash log `logs/crash.txt`: traceback, versions and last events of a failed run, without secrets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable

from ida_tui import __version__
from ida_tui.events.types import current_timestamp
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.manifest import PACKAGES, installed_version
from ida_tui.util.safe_files import make_directory, open_regular, write_text

LAST_EVENTS = 40
"""Number of events to copy."""
TAIL_BYTES = 1 << 20
"""Bytes to read from the end of the event log."""
MAX_LINE_LENGTH = 2000
"""Characters to copy of each event."""


def write_crash_log(
    directory: RunDirectory, traceback: str, *, redact: Callable[[str], str]
) -> None:
    """Write the crash log. If the disk refuses it, print a warning instead of raising.

    Args:
        directory: the run directory.
        traceback: the traceback, already redacted.
        redact: removes secrets from a line.
    """
    packages = "  ".join(f"{name} {installed_version(name) or 'absent'}" for name in PACKAGES)
    parts = [
        f"{current_timestamp()}  ida-tui {__version__}  Python {platform.python_version()}"
        f"  {platform.platform()}",
        packages,
        "",
        traceback.rstrip(),
        "",
        f"Last events (full log: {directory.events.name}):",
        *map(redact, _last_lines(directory)),
    ]
    try:
        make_directory(directory.logs)
        write_text(directory.logs / "crash.txt", "\n".join(parts) + "\n")
    except OSError as error:
        print(f"! the crash log could not be written: {error.strerror or error}", file=sys.stderr)


def _last_lines(directory: RunDirectory) -> list[str]:
    try:
        with open_regular(directory.events) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return ["(could not be read)"]
    last_lines = [line.decode("utf-8", "replace") for line in lines if line][-LAST_EVENTS:]
    return [
        line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]}…"
        for line in last_lines
    ]
