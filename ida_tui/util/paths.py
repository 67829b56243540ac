"""Helpers for paths: short display form, expansion of `~`, and checks that never raise."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

from ida_tui.errors import UsageError

CACHE_DIR_VARIABLE = "IDA_TUI_CACHE_DIR"


def cache_folder() -> Path:
    """The cache folder: `IDA_TUI_CACHE_DIR`, or the user's default cache folder."""
    configured = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(configured).expanduser() if configured else Path(user_cache_dir("ida-tui"))


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


def require_writable(file: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Raises:
        UsageError: it cannot; an existing file is unchanged, a new one is not left behind.
    """
    try:
        is_new = not file.exists()
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666), "wb"):
            pass
        if is_new:
            file.unlink()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot write to {file}: {getattr(error, 'strerror', None) or error}",
            "choose another file, in a folder that exists",
        ) from None


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
