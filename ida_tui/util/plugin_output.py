"""Log of what the code of plugins prints, so that stdout holds only a command's own output.

Threads that a plugin starts are covered too: only the main thread and this program's threads write to stdout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OWN_THREADS = "ida-"
"""How the names of this program's threads begin."""
THREAD_NAME = "plugin"
MAX_LOG_BYTES = 1_000_000
"""Largest size of a log; what a plugin prints beyond it is dropped."""

_log: Path | None = None


@contextlib.contextmanager
def plugin_output_log(path: Path) -> Iterator[None]:
    """Inside the block, what plugins print is appended to a file; otherwise it goes to stderr."""
    global _log
    _log = path
    try:
        yield
    finally:
        _log = None


def redirect_output() -> None:
    """Separate what plugins print to `sys.stdout` and `sys.stderr` from the output of this program."""
    if not isinstance(sys.stdout, _SharedStream):
        sys.stdout = _SharedStream(sys.stdout)
    if not isinstance(sys.stderr, _SharedStream):
        sys.stderr = _SharedStream(sys.stderr, is_stderr=True)


def log_plugin_text(text: str) -> None:
    """Append a text to the log, such as the traceback of a plugin's error; without a log it is dropped."""
    if _log is not None:
        with contextlib.suppress(Exception):
            _write_log(text)


def own_stdout() -> object:
    """`sys.stdout` as it was before `redirect_output`."""
    return sys.stdout.stream if isinstance(sys.stdout, _SharedStream) else sys.stdout


class _SharedStream:
    """Standard output or error that takes text of this program's threads only.

    Args:
        stream: the stream as it was.
        is_stderr: whether it also takes the text of plugins while there is no log.
    """

    def __init__(self, stream: Any, *, is_stderr: bool = False) -> None:
        self.stream = stream
        self._is_stderr = is_stderr

    def write(self, text: str) -> int:
        """Write a text, or log it if a plugin prints it."""
        if _is_own_thread() or (self._is_stderr and _log is None):
            return int(self.stream.write(text))
        with contextlib.suppress(Exception):  # the log is not needed for the work
            _write_log(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        if _is_own_thread():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _is_own_thread() -> bool:
    thread = threading.current_thread()
    return thread is threading.main_thread() or thread.name.startswith(OWN_THREADS)


def _write_log(text: str) -> None:
    if _log is None:
        sys.stderr.write(text)
        return
    _log.parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(_log, flags, 0o600)
    try:
        if os.fstat(descriptor).st_size < MAX_LOG_BYTES:
            os.write(descriptor, text[:MAX_LOG_BYTES].encode("utf-8", "replace"))
    finally:
        os.close(descriptor)
