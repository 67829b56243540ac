"""Read a small JSON file that anybody may have put there: a plain file, of a few kilobytes, or nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

MOST = 1_000_000
"""Bytes; a larger one was not written by this program."""


def read_json(path: Path) -> object:
    """What the file holds. A link is not followed, and a pipe or a device is not waited for.

    Raises:
        OSError: it is not there, is no plain file, or cannot be read.
        ValueError: it is too large, or no JSON.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(f"{path} is no plain file")
        data = bytearray()
        while len(data) <= MOST and (piece := os.read(number, MOST)):
            data += piece
    finally:
        os.close(number)
    if len(data) > MOST:
        raise ValueError(f"{path} is too large")
    try:
        found: object = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    return found
