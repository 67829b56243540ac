"""Requests to pause, resume or stop a run in another process: `control.json` in its run directory.

Only the user who owns the run may write the file. A file that another user could have written is removed and
ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Literal, get_args

from ida_tui.runs.directory import RunDirectory
from ida_tui.util.safe_files import write_text

ControlRequest = Literal["pause", "go_on", "stop"]


def send_request(directory: RunDirectory, request: ControlRequest) -> None:
    """Write a request; it replaces an earlier one that was not read yet.

    Raises:
        OSError: the directory cannot be written to.
    """
    write_text(directory.control_request, json.dumps({"ask": request, "pid": os.getpid()}))


def pop_request(directory: RunDirectory) -> ControlRequest | None:
    """Read and remove the pending request; None if there is no request that may be followed."""
    path = directory.control_request
    try:
        # Non-blocking, because the path could be a pipe without a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        text = os.read(descriptor, 1000) if stat.S_ISREG(status.st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        path.unlink()
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable_by_others or status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
        return None
    try:
        request = json.loads(text)["ask"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return request if request in get_args(ControlRequest) else None
