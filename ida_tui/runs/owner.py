"""Which process trains a run, and whether it is still there: ``owner.json`` in the run's directory."""

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
from ida_tui.util.paths import shown_path

ELSEWHERE_S = 60.0
"""On a disk shared with another machine, a run that wrote within this time is taken to be alive."""


class Ownership:
    """This process's hold on a run: a lock that the kernel keeps for as long as the process lives.

    Args:
        directory: the run.

    Raises:
        UsageError: another process trains it.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._lock = _locked(directory)
        claim(directory)

    def renew(self) -> None:
        """Hold the directory that was made anew in place of one that is gone.

        Raises:
            UsageError: another process was faster.
        """
        lock = _locked(self._directory)
        self._lock.close()
        self._lock = lock
        claim(self._directory)

    def end(self) -> None:
        """Nobody trains the run any more."""
        release(self._directory)
        self._lock.close()


@contextlib.contextmanager
def owned(directory: RunDirectory) -> Iterator[Ownership]:
    """Inside the block this process is known to train the run, and no other one can.

    Raises:
        UsageError: another process trains it.
    """
    ownership = Ownership(directory)
    try:
        yield ownership
    finally:
        ownership.end()


def _locked(directory: RunDirectory) -> TextIO:
    lock = open(directory.lock, "a", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UsageError(
            f"{shown_path(directory.path)} is being trained now, by another process",
            f"watch it: ida-tui attach {shown_path(directory.path)}",
        ) from None
    except OSError:
        pass  # a file system without locks: owner.json is what there is
    return lock


def claim(directory: RunDirectory) -> None:
    """Write down that this process trains the run.

    Raises:
        OSError: the directory cannot be written to.
    """
    process = psutil.Process()
    owner = {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname()}
    beside = directory.owner.with_suffix(f".{process.pid}")
    beside.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    beside.replace(directory.owner)


def release(directory: RunDirectory) -> None:
    """Nobody trains the run any more."""
    with contextlib.suppress(OSError):
        directory.owner.unlink(missing_ok=True)


def pid(directory: RunDirectory) -> int | None:
    """The process that says it trains the run; None where none does."""
    try:
        return int(_written(directory)["pid"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def alive(directory: RunDirectory) -> bool:
    """Whether the process that trains the run is still there. Never raises."""
    try:
        owner = _written(directory)
        pid, started, host = int(owner["pid"]), float(owner["started"]), owner["host"]
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False
    if host != socket.gethostname():
        with contextlib.suppress(OSError):
            return time.time() - directory.events.stat().st_mtime < ELSEWHERE_S
        return False
    try:
        # A number that another process was given later does not count.
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False  # no process has such a number


def _written(directory: RunDirectory) -> dict[str, Any]:
    found = read_json(directory.owner)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found
