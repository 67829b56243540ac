"""Recorded quickstart run for the screenshots and the screen tests.

`quickstart.events.jsonl.gz` is the `events.jsonl` of `ida-tui --run quickstart` on two processor cores.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.engine.session import Session
from ida_tui.errors import IdaError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.run_view.sources import LiveSource

RECORDING = Path(__file__).parent / "quickstart.events.jsonl.gz"


@cache
def records() -> tuple[ev.Record, ...]:
    """Every record of the run, in order."""
    with gzip.open(RECORDING, "rt", encoding="utf-8") as file:
        return tuple(codec.decode(line) for line in file)


def unpack(folder: Path) -> Path:
    """Recreate the run directory below `folder`; returns its path."""
    run = next(r.event for r in records() if isinstance(r.event, ev.RunStarted))
    directory = RunDirectory(folder / run.directory)
    directory.path.mkdir(parents=True)
    directory.config.write_text(to_yaml(resolve("quickstart").config), encoding="utf-8")
    with gzip.open(RECORDING, "rb") as file:
        directory.events.write_bytes(file.read())
    write_completions(directory, records())
    return directory.path


def write_completions(directory: RunDirectory, part: Sequence[ev.Record]) -> None:
    """Write `completions.jsonl` with the completions that are scored in this part of the records."""
    texts: dict[tuple[int, int, int], ev.CompletionFinished] = {}
    lines = []
    for record in part:
        match record.event:
            case ev.CompletionFinished() as text:
                texts[text.step, text.group, text.index] = text
            case ev.CompletionScored() as verdict:
                row = asdict(texts[verdict.step, verdict.group, verdict.index]) | asdict(verdict)
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    directory.completions.write_text("".join(lines), encoding="utf-8")


class RecordedSource(LiveSource):
    """The recorded run as a live source that has progressed to a chosen point.

    Args:
        directory: the run directory that `unpack` created.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(Session(resolve("quickstart").config))
        self.directory = directory
        self._files = RunDirectory(directory)
        self._records = records()
        self._returned = 0
        self._position = 0

    def seek(self, *, step: int, phase: ev.Phase, part: float = 1.0) -> datetime:
        """Move to a point of a phase of a step; returns its time.

        Args:
            step: the step.
            phase: the phase.
            part: share of the phase that has passed, 0 to 1.

        Raises:
            LookupError: the step has no such phase.
        """
        starts = [
            n
            for n, r in enumerate(self._records)
            if isinstance(r.event, ev.PhaseChanged)
            and (r.event.step, r.event.phase) == (step, phase)
        ]
        if not starts:
            raise LookupError(f"step {step} has no phase {phase}")
        later = (
            n
            for n, r in enumerate(self._records[starts[0] + 1 :], start=starts[0] + 1)
            if isinstance(r.event, ev.PhaseChanged | ev.RunEnded)
        )
        self._position = starts[0] + max(1, int(part * (next(later) - starts[0])))
        write_completions(self._files, self._records[: self._position])
        return self.current_time

    def seek_end(self) -> datetime:
        """Move to the last record; returns its time."""
        self._position = len(self._records)
        write_completions(self._files, self._records)
        return self.current_time

    def insert(self, event: ev.Event) -> None:
        """Insert an event at the current point."""
        current = self._records[max(0, self._position - 1)]
        added = ev.Record(current.seq, current.time, event)
        self._records = (*self._records[: self._position], added, *self._records[self._position :])
        self._position += 1

    @property
    def current_time(self) -> datetime:
        """Time of the newest record."""
        return datetime.fromisoformat(self._records[max(0, self._position - 1)].time)

    @property
    def finished(self) -> bool:
        """Whether every record has been returned."""
        return self._returned == len(self._records)

    @property
    def error(self) -> IdaError | None:
        """Always None: the recorded run did start."""
        return None

    def next_records(self, limit: int) -> list[ev.Record]:
        """The next records, at most `limit` of them."""
        chunk: Sequence[ev.Record] = self._records[
            self._returned : min(self._position, self._returned + limit)
        ]
        self._returned += len(chunk)
        return list(chunk)
