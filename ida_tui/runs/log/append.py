"""Appending of lines to a file so that a full disk never leaves an incomplete line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_PIECE = 1 << 20


class Appender:
    """A file to which complete lines are appended without buffering.

    Args:
        path: the file; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, _FLAGS, 0o644)
        self._end = os.fstat(self._file).st_size

    def write(self, line: str, *, durable: bool) -> None:
        """Append one line.

        Args:
            line: text without a newline.
            durable: whether to fsync the file afterwards.

        Raises:
            OSError: the write failed; the file is unchanged.
        """
        data = f"{line}\n".encode()
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(self._file, remaining) :]
            if durable:
                os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(data)

    def is_gone(self) -> bool:
        """Whether the file no longer exists at its path, because its directory was moved or removed."""
        return not self.path.exists()

    def put_back(self) -> None:
        """Recreate the file at its path with all lines so far, and append there from now on.

        Raises:
            OSError: the write failed; lines are still appended to the old file, which has no path.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        new = os.open(temporary, _FLAGS | os.O_TRUNC, 0o644)
        try:
            offset = 0
            while chunk := os.pread(self._file, _PIECE, offset):
                offset += len(chunk)
                remaining = memoryview(chunk)
                while remaining:
                    remaining = remaining[os.write(new, remaining) :]
            os.fsync(new)
            temporary.replace(self.path)
        except OSError:
            os.close(new)
            temporary.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = new

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        os.close(self._file)
