"""Answers of the untrained model, stored until the final evaluation: `evaluations/before.jsonl`.

Those to everyday questions are in `evaluations/everyday.jsonl`.

If all weights are trained, the untrained model no longer exists at the end of the run. The answers are on
disk because another process may resume the run in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.evaluations import FOLDER
from ida_tui.util.safe_files import MAX_TEXT_BYTES, make_directory, read_bytes, write_text
from ida_tui.util.text import parse_json

FILE_NAME = "before.jsonl"
EVERYDAY_FILE_NAME = "everyday.jsonl"


Row = TypeVar("Row")


class BaselineAnswer(NamedTuple):
    """One answer of the untrained model."""

    prompt_id: str
    sample: int
    text: str
    tokens: int
    thought_tokens: int = 0


class EverydayAnswer(NamedTuple):
    """One greedy answer to an everyday question."""

    prompt_id: str
    text: str
    token_ids: list[int]
    """The token ids, with the one that ended the answer."""
    logprob: float
    """The log-probability of all tokens under the model that answered, in nats."""


def save(
    directory: RunDirectory, settings: Mapping[str, Any], answers: Sequence[BaselineAnswer]
) -> None:
    """Write the answers together with their sampling settings.

    Raises:
        OSError: the write failed.
    """
    _write(directory, FILE_NAME, settings, answers)


def save_everyday(
    directory: RunDirectory, settings: Mapping[str, Any], answers: Sequence[EverydayAnswer]
) -> None:
    """Write the answers to everyday questions together with their settings.

    Raises:
        OSError: the write failed.
    """
    _write(directory, EVERYDAY_FILE_NAME, settings, answers)


def load(directory: RunDirectory, settings: Mapping[str, Any]) -> list[BaselineAnswer] | None:
    """The stored answers; None if there are none with these sampling settings."""
    return _read(directory, FILE_NAME, settings, BaselineAnswer)


def load_everyday(
    directory: RunDirectory, settings: Mapping[str, Any]
) -> list[EverydayAnswer] | None:
    """The stored answers to everyday questions; None if there are none with these settings."""
    return _read(directory, EVERYDAY_FILE_NAME, settings, EverydayAnswer)


def _write(
    directory: RunDirectory,
    name: str,
    settings: Mapping[str, Any],
    answers: Sequence[BaselineAnswer] | Sequence[EverydayAnswer],
) -> None:
    path = directory.path / FOLDER / name
    make_directory(path.parent)
    rows = (settings, *(answer._asdict() for answer in answers))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _read(
    directory: RunDirectory, name: str, settings: Mapping[str, Any], row_type: Callable[..., Row]
) -> list[Row] | None:
    try:
        lines = read_bytes(directory.path / FOLDER / name, MAX_TEXT_BYTES).split(b"\n")
        if parse_json(lines[0]) != settings:
            return None
        return [row_type(**parse_json(line)) for line in lines[1:] if line]
    except (OSError, ValueError, TypeError):
        return None
