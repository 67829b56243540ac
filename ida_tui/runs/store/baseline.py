"""Answers of the untrained model, stored until the final evaluation: `evaluations/before.jsonl`.

If all weights are trained, the untrained model no longer exists at the end of the run. The answers are on
disk because another process may resume the run in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.evaluations import FOLDER
from ida_tui.util.safe_files import MAX_TEXT_BYTES, make_directory, read_bytes, write_text
from ida_tui.util.text import parse_json

FILE_NAME = "before.jsonl"


class BaselineAnswer(NamedTuple):
    """One answer of the untrained model."""

    prompt_id: str
    sample: int
    text: str
    tokens: int
    thought_tokens: int = 0


def save(
    directory: RunDirectory, settings: Mapping[str, Any], answers: Sequence[BaselineAnswer]
) -> None:
    """Write the answers together with their sampling settings.

    Raises:
        OSError: the write failed.
    """
    path = _path(directory)
    make_directory(path.parent)
    rows = (settings, *(answer._asdict() for answer in answers))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def load(directory: RunDirectory, settings: Mapping[str, Any]) -> list[BaselineAnswer] | None:
    """The stored answers; None if there are none with these sampling settings."""
    try:
        lines = read_bytes(_path(directory), MAX_TEXT_BYTES).split(b"\n")
        if parse_json(lines[0]) != settings:
            return None
        return [BaselineAnswer(**parse_json(line)) for line in lines[1:] if line]
    except (OSError, ValueError, TypeError):
        return None


def _path(directory: RunDirectory) -> Path:
    return directory.path / FOLDER / FILE_NAME
