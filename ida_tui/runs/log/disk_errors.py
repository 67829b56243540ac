"""What a disk refuses, in words: each of these pauses a run, which goes on once the disk takes it again."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

GOES_ON = "the run goes on by itself, and nothing of it is lost"
SAID = ("no space left", "os error 28", "disk quota exceeded", "failed writing file")
"""How libraries put a full disk that raise something else than an OSError."""
LITTLE = 64e6
"""Bytes; with more free than this, a library's "failed writing file" means something else."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be written, and what helps."""

    reason: str
    hint: str


FULL = Refusal("the disk is full", f"free some space: {GOES_ON}")
_READ_ONLY = Refusal("the disk can only be read", f"make it writable again: {GOES_ON}")
_FORBIDDEN = Refusal(
    "the run's folder may not be written to", f"give its permissions back: {GOES_ON}"
)
_FAILING = Refusal("the disk reports an error", f"look at it and its cable: {GOES_ON}")
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
    """What an error says about the disk of a folder; None where it says nothing about it."""
    if isinstance(error, OSError) and error.errno in KNOWN:
        return KNOWN[error.errno]
    said = str(error).lower()
    if not any(words in said for words in SAID):
        return None
    try:
        return FULL if shutil.disk_usage(folder).free < LITTLE else None
    except OSError:
        return None
