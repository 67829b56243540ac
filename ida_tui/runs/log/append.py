"""Safe appends to a file of lines: a full disk never leaves an incomplete line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_CHUNK_BYTES = 1 << 20


class DurableAppender:
    """A file to which complete lines are appended without buffering.

    Args:
        path: the file; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, _OPEN_FLAGS, 0o600)
        self._size = os.fstat(self._descriptor).st_size

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
                remaining = remaining[os.write(self._descriptor, remaining) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def is_missing(self) -> bool:
        """Whether the file no longer exists at its path, because its directory was moved or removed."""
        return not self.path.exists()

    def recreate(self) -> None:
        """Recreate the file at its path with all lines so far, and append there from now on.

        Raises:
            OSError: the write failed; lines are still appended to the old file, which has no path.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        new = os.open(temporary, _OPEN_FLAGS | os.O_TRUNC, 0o600)
        try:
            offset = 0
            while chunk := os.pread(self._descriptor, _CHUNK_BYTES, offset):
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
        os.close(self._descriptor)
        self._descriptor = new

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        os.close(self._descriptor)


def ends_with_incomplete_line(path: Path) -> bool:
    """Whether a file ends without a newline, because a process died while writing to it."""
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
