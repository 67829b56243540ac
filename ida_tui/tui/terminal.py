"""Keep the terminal for the app: whatever else in the process writes to it goes to a file.

Textual catches Python's `print`; a C library that writes to file descriptor 2, or a child process, would
draw over the screen. The app gets a private copy of the terminal, and descriptors 1 and 2 become a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

GONE = (errno.EIO, errno.ENXIO)
"""What a terminal that has closed answers."""


@contextlib.contextmanager
def kept_for_the_app(stray: Path) -> Iterator[None]:
    """Inside the block only `sys.__stderr__`, which Textual's driver writes to, reaches the terminal.

    `sys.__stdout__` is the terminal too: Python asks it for the terminal's size.

    Args:
        stray: receives everything else; made anew, readable by its owner only.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    stray.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(stray, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    out, err = os.dup(1), os.dup(2)
    kept = sys.__stdout__, sys.__stderr__
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
            sys.__stdout__, sys.__stderr__ = kept  # type: ignore[misc]
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)


def is_gone() -> bool:
    """Whether the terminal on standard input was there once and is no more.

    A terminal that closes sends SIGHUP to what it controls, and to nothing else; Textual would go on reading
    the end of a file for ever.
    """
    try:
        termios.tcgetattr(0)
    except termios.error as error:
        return error.args[0] in GONE
    return False
