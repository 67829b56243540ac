"""Ask a run that another process trains to pause, go on or stop: a small file in its directory.

The file is the owner's alone. One that another user could have written is not obeyed, and is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Literal, get_args

from ida_tui.runs.directory import RunDirectory

Asked = Literal["pause", "go_on", "stop"]


def ask(directory: RunDirectory, what: Asked) -> None:
    """Leave a request; the newest one counts.

    Raises:
        OSError: the directory cannot be written to.
    """
    beside = directory.control.with_name(f".control-{os.getpid()}")
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        json.dump({"ask": what, "pid": os.getpid()}, file)
    beside.replace(directory.control)


def take(directory: RunDirectory) -> Asked | None:
    """The request that is there, which is removed; None where there is none that may be obeyed."""
    path = directory.control
    try:
        # Without waiting: it may be a pipe that nobody writes to.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(number)
        text = os.read(number, 1000) if stat.S_ISREG(found.st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(number)
    with contextlib.suppress(OSError):
        path.unlink()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others or found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
        return None
    try:
        what = json.loads(text)["ask"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return what if what in get_args(Asked) else None
