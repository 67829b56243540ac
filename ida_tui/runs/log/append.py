"""Append whole lines to a file, or nothing: what a full disk refuses leaves no half of a line behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_PIECE = 1 << 20


class Appender:
    """A file that lines are added to, unbuffered.

    Args:
        path: made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, _FLAGS, 0o644)
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

    def is_gone(self) -> bool:
        """Whether there is no file of that name any more: its folder was moved or removed."""
        return not self.path.exists()

    def put_back(self) -> None:
        """Write the file anew where it was, with every line that it had, and go on there.

        Raises:
            OSError: the disk refused it; lines still go to the file that has no name.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        new = os.open(beside, _FLAGS | os.O_TRUNC, 0o644)
        try:
            at = 0
            while piece := os.pread(self._file, _PIECE, at):
                at += len(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(new, rest) :]
            os.fsync(new)
            beside.replace(self.path)
        except OSError:
            os.close(new)
            beside.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = new

    def close(self) -> None:
        """Nothing can be written afterwards."""
        os.close(self._file)
