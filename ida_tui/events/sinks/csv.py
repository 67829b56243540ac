"""CSV sink: `metrics.csv` in the run directory, one row per step, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TextIO, get_args

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.events import types as ev
from ida_tui.events.sinks.base import (
    LENGTH_NAMES,
    REFUSAL_FIGURES,
    RunInfo,
    SinkEvent,
    step_metrics,
)
from ida_tui.util.safe_files import open_descriptor

FILE_NAME = "metrics.csv"
OLD_NAMES = {
    "r_ida": "reward",
    "offline_r_ida": "offline_reward",
    **{name: f"scores/{name}" for name in IDA_AXIS_NAMES},
}
"""Names of columns in files of older versions, and their present names."""


def column_names(axes: Sequence[str], *, has_kinds: bool = True) -> list[str]:
    """The column names: every metric that a step can have on these axes, with prompts of these kinds."""
    names: list[str] = []
    for field in fields(ev.StepFinished):
        if field.name == "lengths":
            names += LENGTH_NAMES
        elif field.name == "scores":
            names += [f"scores/{axis}" for axis in axes]
        elif field.name in REFUSAL_FIGURES and not has_kinds:
            continue
        elif field.name in ("seconds", "least_seconds"):
            names += [f"{field.name}/{phase}" for phase in get_args(ev.Phase)]
        else:
            names.append(field.name)
    return names


class CsvSink:
    """Writes metrics as comma-separated values; unknown values are empty."""

    name = "csv"

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._file: TextIO | None = None
        self._path = Path()

    def start(self, run: RunInfo) -> str:
        """Start the table; after a resume, copy the rows up to the checkpoint's step."""
        self._path = run.directory / FILE_NAME
        self._columns = column_names(run.axes, has_kinds=run.has_kinds)
        rows = [] if run.resumed_from is None else self._read_rows(run.resumed_from)
        temporary = self._path.with_name(f".{FILE_NAME}-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        descriptor = open_descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        csv.writer(self._file).writerow(self._columns)
        csv.DictWriter(self._file, self._columns, extrasaction="ignore").writerows(rows)
        self._file.flush()
        temporary.replace(self._path)
        return ""

    def step(self, step: ev.StepFinished) -> None:
        """Append a row."""
        assert self._file is not None
        values = step_metrics(step)
        csv.writer(self._file).writerow([_format_value(values.get(name)) for name in self._columns])
        self._file.flush()

    def note(self, note: SinkEvent) -> None:
        """Do nothing: the table contains only steps."""

    def end(self, ended: ev.RunEnded) -> str:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        return f"metrics of every step: {self._path}"

    def _read_rows(self, last: int) -> list[dict[str, str]]:
        """The existing rows with a step up to `last`."""
        try:
            descriptor = open_descriptor(self._path, os.O_RDONLY)
            with os.fdopen(descriptor, encoding="utf-8", newline="") as file:
                rows = (_renamed(row) for row in csv.DictReader(file))
                return [row for row in rows if _step_of_row(row) <= last]
        except FileNotFoundError:
            return []


def _renamed(row: dict[str, str]) -> dict[str, str]:
    """A row with the present names of its columns; older versions had one for each axis of R_IDA."""
    return {OLD_NAMES.get(name, name): value for name, value in row.items()}


def _step_of_row(row: dict[str, str]) -> float:
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")  # an incomplete row; its step will be repeated


def _format_value(value: float | None) -> str:
    """A value with the same digits as in `events.jsonl`."""
    return "" if value is None else repr(value)
