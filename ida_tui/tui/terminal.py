"""Exclusive use of the terminal, and crash reports: other output of the process goes to a file.

Textual catches Python's `print`, but a C library that writes to file descriptor 2, or a child process, would
draw over the screen. The app gets a private copy of the terminal, and descriptors 1 and 2 point to a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import termios
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ida_tui import __version__
from ida_tui.errors import IdaError

CLOSED_ERRNOS = (errno.EIO, errno.ENXIO)
"""Error numbers of a terminal that has closed."""


@contextlib.contextmanager
def redirect_output(log_file: Path) -> Iterator[None]:
    """Send all output except `sys.__stderr__` and `sys.__stdout__` to a file inside the block.

    Textual's driver writes to `sys.__stderr__`; Python reads the terminal size from `sys.__stdout__`.

    Args:
        log_file: file for the output; truncated first, readable by its owner only. If it cannot be
            written, such as in a read-only home directory, a temporary file takes its place.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    file = _open_log(log_file)
    out, err = os.dup(1), os.dup(2)
    original = sys.__stdout__, sys.__stderr__
    with open(os.dup(err), "w", encoding="utf-8", errors="replace") as terminal:
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        sys.__stdout__ = sys.__stderr__ = terminal  # type: ignore[misc]
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.__stdout__, sys.__stderr__ = original  # type: ignore[misc]
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)


def _open_log(log_file: Path) -> int:
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    except OSError:
        return tempfile.mkstemp(prefix="ida-tui-terminal-", suffix=".log")[0]


def is_closed() -> bool:
    """Whether the terminal on standard input has closed.

    A closing terminal sends SIGHUP only to the processes it controls. Without this check, Textual would keep
    reading end-of-file in any other process.
    """
    try:
        termios.tcgetattr(0)
    except termios.error as error:
        return error.args[0] in CLOSED_ERRNOS
    return False


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The error that the user sees after the app has crashed."""

    error: IdaError

    @classmethod
    def write(cls, error: BaseException, log: Path) -> CrashReport:
        """Write the traceback to `log`. If that fails, the error's hint says so."""
        text = "".join(traceback.format_exception(error))
        details = f"the traceback is in {log}"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"ida-tui {__version__}\n{text}\n")
        except OSError as write_error:
            details = f"the traceback was lost: could not write {log} ({write_error.strerror})"
        return cls(
            IdaError(
                f"the app crashed: {type(error).__name__}: {error}",
                f"{details}; a live run was stopped and saved its progress",
            )
        )
