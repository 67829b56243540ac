"""Disk errors that pause a run until the disk accepts writes again, with a reason and a hint for each."""

from __future__ import annotations

import errno
import re
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ida_tui.errors import IdaError, short_text
from ida_tui.events.types import Noticed, RunPaused, RunResumed
from ida_tui.util.format import format_duration

T = TypeVar("T")
RETRY_INTERVAL_S = 0.5
MIN_REPORTED_WAIT_S = 5.0
"""Shortest wait for the disk that is worth a notice."""

RESUMES_AUTOMATICALLY = "the run then resumes automatically without losing anything"
REMOVED_MESSAGE = "parent directory"
"""Part of the message of a library that writes into a directory that is gone."""
DISK_FULL_MESSAGES = (
    "no space left",
    "disk quota exceeded",
    "failed writing file",
    "iostream error",
    "unexpected pos",
    "file write failed",
)
"""Messages for a full disk from libraries that do not raise OSError."""
_NUMBER_PATTERN = re.compile(r"\(os error (\d+)\)")
"""The number of a system error in the message of a library written in Rust, such as safetensors."""
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
_TOO_LARGE = DiskError(
    "a file would become larger than this process may write (ulimit -f), or than the file system allows",
    f"raise the limit with prlimit --fsize=unlimited --pid PID; {RESUMES_AUTOMATICALLY}",
)
ERRORS_BY_ERRNO = {
    errno.EFBIG: _TOO_LARGE,
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
    if (number := _NUMBER_PATTERN.search(text)) and int(number[1]) in ERRORS_BY_ERRNO:
        return ERRORS_BY_ERRNO[int(number[1])]
    if REMOVED_MESSAGE in text and "does not exist" in text:
        return _REMOVED
    if not any(message in text for message in DISK_FULL_MESSAGES):
        return None
    try:
        if shutil.disk_usage(folder).free < LOW_SPACE_BYTES:
            return DISK_FULL
    except OSError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else _TOO_LARGE


def explain_disk_error(error: BaseException, folder: Path, hint: str = "") -> IdaError | None:
    """The error to report for a command that does not wait for the disk; None if it has another cause.

    Args:
        error: the exception raised while writing or reading.
        folder: a directory on the disk in question.
        hint: what to do when the disk accepts writes again.
    """
    file = getattr(error, "filename", None)
    found = disk_error_of(error, folder)
    if found is None and not isinstance(error, OSError):
        return None
    named = f" ({file})" if isinstance(file, str) else ""
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        fix = "check that you may read and write there"
        return IdaError(f"permission denied{named}", f"{fix}\n{hint}".strip())
    if found is None or number == errno.ENOENT:
        reason = getattr(error, "strerror", None) or short_text(error) or type(error).__name__
        return IdaError(f"{reason[:1].lower()}{reason[1:]}{named}", hint)
    fix = found.hint.removesuffix(f"; {RESUMES_AUTOMATICALLY}")
    return IdaError(f"{found.reason}{named}", f"{fix}\n{hint}".strip())


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
