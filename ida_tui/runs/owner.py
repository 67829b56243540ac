"""Ownership of a run: the process that trains it, recorded in `owner.json` and protected by a lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, TextIO

import psutil

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import display_path

REMOTE_ALIVE_S = 60.0
"""A run of another machine (on a shared disk) counts as alive if it wrote an event within this time."""


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


def _acquire_lock(directory: RunDirectory) -> TextIO:
    lock = open(directory.lock, "a", encoding="utf-8")  # noqa: SIM115
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
    process = psutil.Process()
    owner = {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname()}
    temporary = directory.owner.with_suffix(f".{process.pid}")
    temporary.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    temporary.replace(directory.owner)


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
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False  # no process has this pid


def _read_owner(directory: RunDirectory) -> dict[str, Any]:
    owner = read_json(directory.owner)
    if not isinstance(owner, dict):
        raise ValueError("not a JSON object")
    return owner
