"""Exclusive use of the terminal: everything else that the process writes goes to a file.

Textual catches Python's `print`, but a C library that writes to file descriptor 2, or a child process, would
draw over the screen. The app gets a private copy of the terminal, and descriptors 1 and 2 point to a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

CLOSED_ERRNOS = (errno.EIO, errno.ENXIO)
"""Error numbers of a terminal that has closed."""


@contextlib.contextmanager
def redirect_output(log_file: Path) -> Iterator[None]:
    """Send all output except `sys.__stderr__` and `sys.__stdout__` to a file inside the block.

    Textual's driver writes to `sys.__stderr__`; Python reads the terminal size from `sys.__stdout__`.

    Args:
        stray: file for the output; truncated first, readable by its owner only.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
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
