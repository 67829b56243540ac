"""A real quickstart, recorded once: what the pictures and the tests of the screens are drawn from.

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
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.run_view.sources import LiveSource

FILE = Path(__file__).parent / "quickstart.events.jsonl.gz"


@cache
def records() -> tuple[ev.Record, ...]:
    """Every record of the run, in order."""
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        return tuple(ev.decode(line) for line in file)


def unpack(folder: Path) -> Path:
    """Lay the run out as it was, below `folder`; returns its directory."""
    run = next(r.event for r in records() if isinstance(r.event, ev.RunStarted))
    directory = RunDirectory(folder / run.directory)
    directory.path.mkdir(parents=True)
    directory.config.write_text(to_yaml(resolve("quickstart").config), encoding="utf-8")
    with gzip.open(FILE, "rb") as file:
        directory.events.write_bytes(file.read())
    texts: dict[tuple[int, int, int], ev.CompletionFinished] = {}
    lines = []
    for record in records():
        match record.event:
            case ev.CompletionFinished() as text:
                texts[text.step, text.group, text.index] = text
            case ev.CompletionScored() as verdict:
                row = asdict(texts[verdict.step, verdict.group, verdict.index]) | asdict(verdict)
                lines.append(json.dumps(row, ensure_ascii=False))
    directory.completions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory.path


class Tape(LiveSource):
    """The recorded run as if it were live: it has come as far as it was wound.

    Args:
        directory: where it was unpacked.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(Session(resolve("quickstart").config))
        self.directory = directory
        self._tape = records()
        self._given = 0
        self._until = 0

    def wind_to(self, *, step: int, phase: ev.Phase, part: float = 1.0) -> datetime:
        """Wind to a phase of a step, `part` of the way into it; returns the moment.

        Raises:
            LookupError: the run had no such phase in that step.
        """
        starts = [
            n
            for n, r in enumerate(self._tape)
            if isinstance(r.event, ev.PhaseChanged)
            and (r.event.step, r.event.phase) == (step, phase)
        ]
        if not starts:
            raise LookupError(f"no {phase} in step {step}")
        later = (
            n
            for n, r in enumerate(self._tape[starts[0] + 1 :], start=starts[0] + 1)
            if isinstance(r.event, ev.PhaseChanged | ev.RunEnded)
        )
        self._until = starts[0] + max(1, int(part * (next(later) - starts[0])))
        return self.moment

    def wind_to_the_end(self) -> datetime:
        """Wind to the last record; returns the moment."""
        self._until = len(self._tape)
        return self.moment

    def add(self, event: ev.Event) -> None:
        """Have something happen here that did not when the run was recorded."""
        now = self._tape[max(0, self._until - 1)]
        added = ev.Record(now.seq, now.time, event)
        self._tape = (*self._tape[: self._until], added, *self._tape[self._until :])
        self._until += 1

    @property
    def moment(self) -> datetime:
        """When the newest record was made."""
        return datetime.fromisoformat(self._tape[max(0, self._until - 1)].time)

    @property
    def finished(self) -> bool:
        """Whether the whole run has been given."""
        return self._given == len(self._tape)

    @property
    def refusal(self) -> IdaError | None:
        """Nothing kept it from starting."""
        return None

    def records(self, most: int) -> list[ev.Record]:
        """The next records, at most so many."""
        given: Sequence[ev.Record] = self._tape[self._given : min(self._until, self._given + most)]
        self._given += len(given)
        return list(given)
