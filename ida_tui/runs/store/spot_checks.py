"""Spot checks of the judge's scores by a person: ``spot-checks.jsonl`` in the run directory.

Each line is one spot check; lines are only appended. The newest spot check of a completion counts, and
``agree: null`` withdraws earlier ones.
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
"""Step, group and index, which identify a completion within its run."""


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """A person's opinion on the scores of one completion."""

    step: int
    group: int
    index: int
    agree: bool | None
    """Whether the person agrees with the scores; None withdraws an earlier spot check."""
    note: str = ""
    time: str = ""
    """UTC, ISO 8601."""

    @property
    def place(self) -> Place:
        """Step, group and index of the completion."""
        return self.step, self.group, self.index


def add(directory: RunDirectory, check: SpotCheck) -> None:
    """Append one spot check.

    Raises:
        OSError: the write failed; the file is unchanged.
    """
    path = directory.path / FILE
    file = Appender(path)
    try:
        # End an incomplete line of an earlier process, so that it is skipped as a separate line.
        newline = "\n" if _torn(path) else ""
        file.write(newline + json.dumps(asdict(check), ensure_ascii=False), durable=True)
    finally:
        file.close()


def newest(directory: RunDirectory) -> dict[Place, SpotCheck]:
    """The newest spot check of each completion, without withdrawn ones."""
    checks: dict[Place, SpotCheck] = {}
    for check in _read(directory.path / FILE):
        if check.agree is None:
            checks.pop(check.place, None)
        else:
            checks[check.place] = check
    return checks


def agreement(directory: RunDirectory) -> tuple[int, int]:
    """The number of spot checks that agree with the judge, and the number of all spot checks."""
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
    """The spot check in a line; None if the line is incomplete or invalid."""
    try:
        check = SpotCheck(**json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        return None
    valid_place = all(type(number) is int for number in check.place)
    valid_texts = isinstance(check.note, str) and isinstance(check.time, str)
    valid_agree = check.agree is None or type(check.agree) is bool
    return check if valid_place and valid_texts and valid_agree else None


def _torn(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
