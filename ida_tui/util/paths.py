"""Helpers for paths: short display form, expansion of `~`, and checks that never raise."""

from __future__ import annotations

import os
from pathlib import Path


def display_path(path: Path) -> str:
    """A path as printed: relative to the working directory if that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)


def expand_home(path: str) -> Path:
    """A path with `~` expanded if the home directory is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether the path is a file; False if it cannot be checked."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """Whether the path is a directory; False if it cannot be checked."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
