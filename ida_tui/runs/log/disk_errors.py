"""Disk errors that pause a run until the disk accepts writes again, with a reason and a hint for each."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

GOES_ON = "the run then resumes automatically without losing anything"
SAID = ("no space left", "os error 28", "disk quota exceeded", "failed writing file")
"""Messages for a full disk from libraries that do not raise OSError."""
LITTLE = 64e6
"""Free bytes below which such a message is attributed to a full disk."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the disk rejects writes, and how to fix it."""

    reason: str
    hint: str


FULL = Refusal("the disk is full", f"free some space: {GOES_ON}")
_READ_ONLY = Refusal("the disk is read-only", f"make it writable again: {GOES_ON}")
_FORBIDDEN = Refusal(
    "no permission to write to the run directory", f"restore its permissions: {GOES_ON}"
)
_FAILING = Refusal("the disk reports an error", f"check the disk and its connection: {GOES_ON}")
KNOWN = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: Refusal("the disk quota is used up", f"free some space: {GOES_ON}"),
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
}


def refusal(error: BaseException, folder: Path) -> Refusal | None:
    """The disk problem behind an error; None if the error has another cause.

    Args:
        error: the exception raised while writing.
        folder: a directory on the disk in question.
    """
    if isinstance(error, OSError) and error.errno in KNOWN:
        return KNOWN[error.errno]
    text = str(error).lower()
    if not any(message in text for message in SAID):
        return None
    try:
        return FULL if shutil.disk_usage(folder).free < LITTLE else None
    except OSError:
        return None
