"""Safe reading of small JSON files from untrusted sources."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

MAX_BYTES = 1_000_000
"""Maximum size in bytes; a larger file was not written by this program."""


def read_json(path: Path) -> object:
    """The parsed contents of a JSON file; does not follow links and does not block on pipes or devices.

    Raises:
        OSError: the file is missing, is not a regular file, or cannot be read.
        ValueError: the file is too large or is not JSON.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        data = bytearray()
        while len(data) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES)):
            data += chunk
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is too large")
    try:
        value: object = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    return value
