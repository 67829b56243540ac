"""What a person said of a judge's scores: ``spot-checks.jsonl`` in the run's directory.

One line a word, appended and never changed; the newest one on a completion counts. ``agree: null`` takes an
earlier word back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import Appender

FILE = "spot-checks.jsonl"

Place = tuple[int, int, int]
"""Step, group and index: the name of a completion within its run."""


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """One word on the scores of one completion."""

    step: int
    group: int
    index: int
    agree: bool | None
    """Whether the scores are right; None takes an earlier word back."""
    note: str = ""
    time: str = ""
    """UTC, ISO 8601."""

    @property
    def place(self) -> Place:
        """The completion that it is about."""
        return self.step, self.group, self.index


def add(directory: RunDirectory, check: SpotCheck) -> None:
    """Append one word.

    Raises:
        OSError: the disk refused it; the file is as it was.
    """
    path = directory.path / FILE
    file = Appender(path)
    try:
        # Whatever an earlier process left torn stays a line of its own, and is not read.
        mend = "\n" if _torn(path) else ""
        file.write(mend + json.dumps(asdict(check), ensure_ascii=False), durable=True)
    finally:
        file.close()


def newest(directory: RunDirectory) -> dict[Place, SpotCheck]:
    """The newest word on each completion, those that were taken back left out."""
    found: dict[Place, SpotCheck] = {}
    for check in _read(directory.path / FILE):
        if check.agree is None:
            found.pop(check.place, None)
        else:
            found[check.place] = check
    return found


def agreement(directory: RunDirectory) -> tuple[int, int]:
    """How many completions' scores a person agreed with, and how many were looked at."""
    checks = newest(directory).values()
    return sum(check.agree is True for check in checks), len(checks)


def _read(path: Path) -> Iterator[SpotCheck]:
    try:
        with open(path, "rb") as file:
            for raw in file:
                check = _check(raw)
                if check is not None:
                    yield check
    except OSError:
        return


def _check(raw: bytes) -> SpotCheck | None:
    """What a line says; None where it is torn, or no such line."""
    try:
        check = SpotCheck(**json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = all(type(number) is int for number in check.place)
    texts = isinstance(check.note, str) and isinstance(check.time, str)
    word = check.agree is None or type(check.agree) is bool
    return check if numbers and texts and word else None


def _torn(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
