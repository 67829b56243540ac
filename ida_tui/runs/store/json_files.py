"""Safe reading of small JSON files from untrusted sources."""

from __future__ import annotations

from pathlib import Path

from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import parse_json

MAX_BYTES = 1_000_000
"""Maximum size in bytes; a larger file was not written by this program."""


def read_json(path: Path, limit: int = MAX_BYTES) -> object:
    """The parsed contents of a JSON file; does not follow links and does not block on pipes or devices.

    Raises:
        OSError: the file is missing, is not a regular file, is too large, or cannot be read.
        ValueError: the file is not JSON.
    """
    value: object = parse_json(read_bytes(path, limit))
    return value
