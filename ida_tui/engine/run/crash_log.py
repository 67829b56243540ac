"""``logs/crash.txt``: what somebody needs who has to find out why a run broke, without its secrets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable

from ida_tui import __version__
from ida_tui.events.types import now
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.manifest import PACKAGES, version_of

LAST_EVENTS = 40
"""How many of the newest lines of the log are repeated."""
TAIL = 1 << 20
"""Bytes of the log that they are looked for in."""
LONGEST = 2000
"""Characters of a line that are repeated."""


def write(directory: RunDirectory, trace: str, *, redact: Callable[[str], str]) -> None:
    """Write the file; a disk that refuses it costs the details and nothing else.

    Args:
        directory: the run's.
        trace: the traceback, redacted.
        redact: takes secrets out of a line.
    """
    packages = "  ".join(f"{name} {version_of(name) or 'absent'}" for name in PACKAGES)
    parts = [
        f"{now()}  ida-tui {__version__}  Python {platform.python_version()}  {platform.platform()}",
        packages,
        "",
        trace.rstrip(),
        "",
        f"The last events (all of them are in {directory.events.name}):",
        *map(redact, _last_lines(directory)),
    ]
    try:
        directory.logs.mkdir(exist_ok=True)
        (directory.logs / "crash.txt").write_text("\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"! the details could not be written: {error.strerror or error}", file=sys.stderr)


def _last_lines(directory: RunDirectory) -> list[str]:
    try:
        with open(directory.events, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return ["(they cannot be read)"]
    shown = [line.decode("utf-8", "replace") for line in lines if line][-LAST_EVENTS:]
    return [line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in shown]
