"""``metrics.csv`` in the run's directory: a line a step, for a spreadsheet or pandas."""

from __future__ import annotations

import csv
import os
from dataclasses import fields
from pathlib import Path
from typing import TextIO, get_args

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import LENGTHS, Note, Place, figures

FILE = "metrics.csv"


def columns() -> list[str]:
    """The head of the table: every figure that a step can have."""
    found: list[str] = []
    for field in fields(ev.StepFinished):
        if field.name == "lengths":
            found += LENGTHS
        elif field.name == "seconds":
            found += [f"seconds/{phase}" for phase in get_args(ev.Phase)]
        else:
            found.append(field.name)
    return found


class Table:
    """Figures as comma-separated values; what is not known is left empty."""

    name = "csv"

    def __init__(self) -> None:
        self._columns = columns()
        self._file: TextIO | None = None
        self._path = Path()

    def start(self, place: Place) -> str:
        """Begin the table, or keep what counts of the one that is there."""
        self._path = place.directory / FILE
        kept = [] if place.resumed_from is None else self._rows(place.resumed_from)
        beside = self._path.with_name(f".{FILE}-{os.getpid()}")
        self._file = open(beside, "w", encoding="utf-8", newline="")  # noqa: SIM115
        csv.writer(self._file).writerow(self._columns)
        csv.DictWriter(self._file, self._columns, extrasaction="ignore").writerows(kept)
        self._file.flush()
        beside.replace(self._path)
        return ""

    def step(self, step: ev.StepFinished) -> None:
        """Add a line."""
        assert self._file is not None
        found = figures(step)
        csv.writer(self._file).writerow([_text(found.get(name)) for name in self._columns])
        self._file.flush()

    def note(self, note: Note) -> None:
        """Nothing: the table is about steps."""

    def end(self, ended: ev.RunEnded) -> str:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        return f"figures of every step: {self._path}"

    def _rows(self, last: int) -> list[dict[str, str]]:
        """The lines up to this step."""
        try:
            with open(self._path, encoding="utf-8", newline="") as file:
                return [row for row in csv.DictReader(file) if _step(row) <= last]
        except FileNotFoundError:
            return []


def _step(row: dict[str, str]) -> float:
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")  # torn: it is made again


def _text(value: float | None) -> str:
    """A figure as ``events.jsonl`` has it, digit for digit."""
    return "" if value is None else repr(value)
