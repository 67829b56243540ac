"""Append whole lines to a file, or nothing: what a full disk refuses leaves no half of a line behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = ("no space left", "os error 28", "disk quota exceeded", "failed writing file")
"""How libraries put it that raise something else than an OSError."""
LITTLE = 64e6
"""Bytes; with more free than this, a library's "failed writing file" means something else."""


class Appender:
    """A file that lines are added to, unbuffered.

    Args:
        path: made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._end = os.fstat(self._file).st_size

    def write(self, line: str, *, durable: bool) -> None:
        """Add one line; synced to the disk where it has to last.

        Raises:
            OSError: the disk refused it; the file is as it was.
        """
        data = f"{line}\n".encode()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if durable:
                os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        """Nothing can be written afterwards."""
        os.close(self._file)


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error means that the disk of a folder has no room left."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    said = str(error).lower()
    if not any(words in said for words in SAID):
        return False
    try:
        return shutil.disk_usage(folder).free < LITTLE
    except OSError:
        return False
