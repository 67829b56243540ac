"""Ownership of a run: the process that trains it, recorded in `owner.json` and protected by a lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import open_appended, write_text

REMOTE_ALIVE_S = 60.0
"""A run of another machine (on a shared disk) counts as alive if it wrote an event within this time."""


_START_FIELD = 19
"""Position of the start time, in clock ticks, among the fields after the program's name in /proc/PID/stat."""


class Ownership:
    """Ownership of a run by this process: a file lock that the kernel releases when the process ends.

    Args:
        directory: the run.

    Raises:
        UsageError: another process is training the run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._lock = _acquire_lock(directory)
        claim(directory)

    def reacquire(self) -> None:
        """Lock the run directory again after it was recreated.

        Raises:
            UsageError: another process has locked it in the meantime.
        """
        lock = _acquire_lock(self._directory)
        self._lock.close()
        self._lock = lock
        claim(self._directory)

    def release(self) -> None:
        """Release the run."""
        release(self._directory)
        self._lock.close()


@contextlib.contextmanager
def owned_run(directory: RunDirectory) -> Iterator[Ownership]:
    """Own the run inside the block, so that no other process can train it.

    Raises:
        UsageError: another process is training the run.
    """
    ownership = Ownership(directory)
    try:
        yield ownership
    finally:
        ownership.release()


def _acquire_lock(directory: RunDirectory) -> BinaryIO:
    lock = open_appended(directory.lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UsageError(
            f"another process is training {display_path(directory.path)}",
            f"watch the run: ida-tui attach {display_path(directory.path)}",
        ) from None
    except OSError:
        pass  # the file system has no locks; owner.json is the only protection
    return lock


def claim(directory: RunDirectory) -> None:
    """Record this process as the owner of the run.

    Raises:
        OSError: the directory cannot be written to.
    """
    pid = os.getpid()
    owner = {"pid": pid, "started": _start_time(pid), "host": socket.gethostname()}
    write_text(directory.owner, json.dumps(owner) + "\n")


def release(directory: RunDirectory) -> None:
    """Remove the record of the owner."""
    with contextlib.suppress(OSError):
        directory.owner.unlink(missing_ok=True)


def owner_pid(directory: RunDirectory) -> int | None:
    """The pid of the recorded owner; None if there is no owner."""
    try:
        return int(_read_owner(directory)["pid"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def is_alive(directory: RunDirectory) -> bool:
    """Whether the process that trains the run is still running. Never raises."""
    try:
        owner = _read_owner(directory)
        pid, started, host = int(owner["pid"]), float(owner["started"]), owner["host"]
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False
    if host != socket.gethostname():
        with contextlib.suppress(OSError):
            return time.time() - directory.events.stat().st_mtime < REMOTE_ALIVE_S
        return False
    try:
        # The start time detects a pid that was reused by another process.
        return abs(_start_time(pid) - started) < 1.0
    except (psutil.Error, OSError, ValueError, IndexError, OverflowError):
        return False  # no process has this pid


def _start_time(pid: int) -> float:
    """When a process started, in seconds; on Linux since the boot, so that setting the clock changes nothing.

    Raises:
        OSError: no process has this pid.
    """
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # The name of the program, in parentheses, may itself contain spaces and parentheses.
    return int(text.rpartition(")")[2].split()[_START_FIELD]) / os.sysconf("SC_CLK_TCK")


def _read_owner(directory: RunDirectory) -> dict[str, Any]:
    owner = read_json(directory.owner)
    if not isinstance(owner, dict):
        raise ValueError("not a JSON object")
    return owner
