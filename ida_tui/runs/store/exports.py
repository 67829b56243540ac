"""Export directories of a run, written under a temporary name and moved into place when complete.

An `export.json` file marks a directory as an export; a directory without it is never replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import replaced_directory, write_text

ExportKind = Literal["adapter", "merged", "gguf"]
METADATA_FILE = "export.json"
MODEL_CARD_FILE = "README.md"
VERSION = 1


def default_directory(directory: RunDirectory, name: str) -> Path:
    """The default directory of an export: `RUN/export/<name>`."""
    return directory.path / "export" / name


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that an export may be written to a path.

    Raises:
        UsageError: the path exists and may not be replaced.
    """
    shown = display_path(target)
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not is_export(target):
        raise UsageError(
            f"{shown} already exists and is not an ida-tui export",
            "choose a folder that does not exist yet: --output DIR",
        )
    if not overwrite:
        raise UsageError(
            f"{shown} already exists",
            "replace it with --overwrite, or choose another folder with --output DIR",
        )


def is_export(folder: Path) -> bool:
    """Whether a directory is an export of ida-tui."""
    try:
        metadata = read_json(folder / METADATA_FILE)
    except (OSError, ValueError):
        return False
    return (
        isinstance(metadata, dict)
        and metadata.get("version") == VERSION
        and not folder.is_symlink()
    )


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces the target if the block succeeds, and is removed otherwise.

    Args:
        target: the final directory; an existing directory is replaced at the end (see `check_target`).

    Raises:
        UsageError: the temporary directory cannot be created.
        OSError: the directory cannot be moved into place.
    """
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(replaced_directory(target))
        except OSError as error:
            raise UsageError(
                f"cannot write to {display_path(target.parent)}: {error.strerror or error}",
                "choose another folder: --output DIR",
            ) from None
        yield temporary


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write `export.json`, which marks the directory as an export and describes it.

    Raises:
        OSError: the write failed.
    """
    body = {"version": VERSION, **metadata}
    text = json.dumps(body, ensure_ascii=False, indent=1) + "\n"
    write_text(folder / METADATA_FILE, text)
