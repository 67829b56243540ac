"""What a model answered before it was trained, kept until it has been: ``evaluations/before.jsonl``.

Where every weight is trained the untrained model is not there any more at the end, and a run may be gone on
with by another process in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.evaluations import FOLDER

FILE = "before.jsonl"


class Kept(NamedTuple):
    """One answer."""

    prompt_id: str
    sample: int
    text: str
    tokens: int


def keep(directory: RunDirectory, settings: Mapping[str, Any], answers: Sequence[Kept]) -> None:
    """Write the answers, with what they were sampled by.

    Raises:
        OSError: the disk refused it.
    """
    place = _place(directory)
    place.parent.mkdir(exist_ok=True)
    beside = place.with_name(f".{FILE}")
    with open(beside, "w", encoding="utf-8") as file:
        for row in (settings, *(answer._asdict() for answer in answers)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    beside.replace(place)


def kept(directory: RunDirectory, settings: Mapping[str, Any]) -> list[Kept] | None:
    """The answers that were kept; None where there are none that were sampled by these settings."""
    try:
        lines = _place(directory).read_text(encoding="utf-8").split("\n")
        if json.loads(lines[0]) != settings:
            return None
        return [Kept(**json.loads(line)) for line in lines[1:] if line]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _place(directory: RunDirectory) -> Path:
    return directory.path / FOLDER / FILE
