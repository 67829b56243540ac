"""Disk errors that pause a run until the disk accepts writes again, with a reason and a hint for each."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ida_tui.events.types import Noticed, RunPaused, RunResumed
from ida_tui.util.format import format_duration

T = TypeVar("T")
RETRY_INTERVAL_S = 0.5
MIN_REPORTED_WAIT_S = 5.0
"""Shortest wait for the disk that is worth a notice."""

RESUMES_AUTOMATICALLY = "the run then resumes automatically without losing anything"
REMOVED_MESSAGE = "parent directory"
"""Part of the message of a library that writes into a directory that is gone."""
DISK_FULL_MESSAGES = ("no space left", "os error 28", "disk quota exceeded", "failed writing file")
"""Messages for a full disk from libraries that do not raise OSError."""
LOW_SPACE_BYTES = 64e6
"""Free bytes below which such a message is attributed to a full disk."""


@dataclass(frozen=True, slots=True)
class DiskError:
    """Why the disk rejects writes, and how to fix it."""

    reason: str
    hint: str


DISK_FULL = DiskError("the disk is full", f"free some space; {RESUMES_AUTOMATICALLY}")
_REMOVED = DiskError(
    "files disappeared while they were written",
    f"check what removes files of the run directory; {RESUMES_AUTOMATICALLY}",
)
_READ_ONLY = DiskError(
    "the disk is read-only", f"make the disk writable again; {RESUMES_AUTOMATICALLY}"
)
_PERMISSION_DENIED = DiskError(
    "no permission to write to the run directory",
    f"restore the permissions of the run directory; {RESUMES_AUTOMATICALLY}",
)
_FAILING = DiskError(
    "the disk reports an error", f"check the disk and its connection; {RESUMES_AUTOMATICALLY}"
)
ERRORS_BY_ERRNO = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DiskError(
        "the disk quota is used up", f"free some space; {RESUMES_AUTOMATICALLY}"
    ),
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _PERMISSION_DENIED,
    errno.EPERM: _PERMISSION_DENIED,
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
    errno.ENOENT: _REMOVED,
}


def disk_error_of(error: BaseException, folder: Path) -> DiskError | None:
    """The disk problem behind an error; None if the error has another cause.

    Args:
        error: the exception raised while writing.
        folder: a directory on the disk in question.
    """
    if isinstance(error, OSError) and error.errno in ERRORS_BY_ERRNO:
        return ERRORS_BY_ERRNO[error.errno]
    text = str(error).lower()
    if REMOVED_MESSAGE in text and "does not exist" in text:
        return _REMOVED
    if not any(message in text for message in DISK_FULL_MESSAGES):
        return None
    try:
        return DISK_FULL if shutil.disk_usage(folder).free < LOW_SPACE_BYTES else None
    except OSError:
        return None


def disk_wait_notice(seconds: float) -> Noticed:
    """The notice that the run waited for the disk, which does not count as time of training."""
    text = f"the run waited {format_duration(seconds)} for the disk"
    return Noticed(level="info", source="disk", text=text, lost_s=round(seconds, 3))


def retry_while_disk_refuses(
    write: Callable[[], T],
    folder: Path,
    step: int,
    notify: Callable[[RunPaused | RunResumed], object],
    *,
    errors: tuple[type[Exception], ...] = (OSError,),
    wait: Callable[[float], object] = time.sleep,
    stop_waiting: Callable[[], bool] = lambda: False,
) -> T:
    """Call `write` until the disk accepts it; returns its result.

    Args:
        write: writes to the disk; called again after every disk error.
        folder: a directory on the disk.
        step: the current step, for the events.
        notify: receives a RunPaused for each new disk error, and a RunResumed at the end.
        errors: exceptions of `write` that a disk error can cause.
        wait: waits between two attempts; gets the seconds, and may raise to end the wait.
        stop_waiting: polled after each disk error; true raises the error.

    Raises:
        Exception: the last error of `write`, if the disk is not its cause or `stop_waiting` returned true.
    """
    reported: DiskError | None = None
    while True:
        try:
            result = write()
            break
        except errors as error:
            disk_error = disk_error_of(error, folder)
            if disk_error is None or stop_waiting():
                raise
        if disk_error != reported:
            reported = disk_error
            notify(RunPaused(step, disk_error.reason, disk_error.hint, by="disk"))
        wait(RETRY_INTERVAL_S)
    if reported:
        notify(RunResumed(step))
    return result
