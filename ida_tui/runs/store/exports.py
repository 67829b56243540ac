"""Where a run's exports go: made in a folder beside, and moved into place when they are whole.

An export is known by its ``export.json``; a folder without one is never replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import shown_path

Kind = Literal["adapter", "merged", "gguf"]
FACTS = "export.json"
CARD = "README.md"
VERSION = 1


def place(directory: RunDirectory, name: str) -> Path:
    """Where an export of a run goes unless somebody says otherwise: ``RUN/export/<name>``."""
    return directory.path / "export" / name


def require_free(target: Path, *, overwrite: bool) -> None:
    """See that an export may be put here.

    Raises:
        UsageError: something is there, and it may not or must not be replaced.
    """
    where = shown_path(target)
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not is_export(target):
        raise UsageError(
            f"{where} is there, and is no export of ida-tui",
            "name a folder that is not there yet: --output DIR",
        )
    if not overwrite:
        raise UsageError(
            f"{where} is there already",
            "--overwrite replaces it; --output DIR writes elsewhere",
        )


def is_export(folder: Path) -> bool:
    """Whether a folder was written by `staged`."""
    try:
        found = read_json(folder / FACTS)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("version") == VERSION and not folder.is_symlink()


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside the target, which takes its place when the block ends well; otherwise it is removed.

    Args:
        target: where the export goes; what `require_free` allows to be replaced is replaced in the end.

    Raises:
        UsageError: the folder cannot be made.
        OSError: it cannot be moved into place.
    """
    beside = target.with_name(f".{target.name}-exporting-{os.getpid()}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to {shown_path(target.parent)}: {error.strerror or error}",
            "name another folder: --output DIR",
        ) from None
    try:
        yield beside
        if target.exists():
            gone = target.with_name(f".{target.name}-replaced-{os.getpid()}")
            target.replace(gone)
            beside.replace(target)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say in the folder itself what it is.

    Raises:
        OSError: the disk refused it.
    """
    body = {"version": VERSION, **facts}
    text = json.dumps(body, ensure_ascii=False, indent=1) + "\n"
    (folder / FACTS).write_text(text, encoding="utf-8")
