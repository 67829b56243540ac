"""Open a run from disk: its end at once, and any earlier step when somebody looks back.

Most of what a run wrote is about a step that is over: texts, verdicts, beats of the generation. Those lines
are recognised by their first bytes and not even parsed, unless they belong to the step that is asked for. The
state is the same as if every record had been folded; `tests/test_replay.py` compares the two.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from ida_tui import events as ev
from ida_tui.runs.reader import decoded
from ida_tui.state import RunState, fold

# As `events.encode` writes a line; one that looks different is parsed whole.
_HEAD = re.compile(rb'\{"v": \d+, "seq": (\d{1,18}), "time": "([0-9TZ:.+-]*)", "type": "(\w+)"')
_PHASE = re.compile(rb'"step": (\d+), "phase": "(\w+)"\}$')
_OF_THE_STEP = {
    b"RolloutStarted",
    b"TextGenerated",
    b"CompletionFinished",
    b"CompletionScored",
    b"JudgeProgressed",
}
SNAPSHOT_EVERY = 250
"""Steps between two states that are kept to look back from."""


@dataclass(slots=True)
class _Scan:
    """How far the file has been read, and what is known there."""

    state: RunState = field(default_factory=RunState)
    """Everything but what belongs to the step under way."""
    first_time: str = ""
    last: tuple[int, str] = (-1, "")
    """Number and time of the last record."""
    step: int = 0
    of_the_step: list[bytes] = field(default_factory=list)
    """Lines about the step under way, not yet parsed."""
    generation: bytes | None = None
    pause: ev.RunPaused | None = None
    offset: int = 0
    number: int = 0
    """Lines read."""

    def copy(self) -> _Scan:
        return replace(self, of_the_step=list(self.of_the_step))

    def take(self, raw: bytes, path: Path) -> ev.StepFinished | None:
        """Take in one whole line; returns the step that it finishes, if it finishes one."""
        self.offset += len(raw)
        self.number += 1
        if not raw.strip():
            return None
        head = _HEAD.match(raw)
        record = None if head else decoded(raw, f"{path}:{self.number}")
        if head:
            kind = head[3]
            self.last = (int(head[1]), head[2].decode())
        else:
            assert record is not None
            kind = type(record.event).__name__.encode()
            self.last = (record.seq, record.time)
        self.first_time = self.first_time or self.last[1]
        if kind in _OF_THE_STEP:
            self.of_the_step.append(raw)
            return None
        if kind == b"TokensGenerated":
            self.generation = raw
            return None
        if kind == b"PhaseChanged":
            self._phase_changed(raw, path)
            return None
        record = record or decoded(raw, f"{path}:{self.number}")
        self.state = fold(self.state, record)
        if isinstance(record.event, ev.RunPaused):
            self.pause = record.event
        elif isinstance(record.event, ev.RunResumed):
            self.pause = None
        return record.event if isinstance(record.event, ev.StepFinished) else None

    def _phase_changed(self, raw: bytes, path: Path) -> None:
        found = _PHASE.search(raw.rstrip())
        if found:
            step, phase = int(found[1]), found[2].decode()
        else:
            event = decoded(raw, f"{path}:{self.number}").event
            assert isinstance(event, ev.PhaseChanged)
            step, phase = event.step, event.phase
        if step != self.step:
            self.of_the_step.clear()
            self.step = step
        if phase == "generate":
            self.generation = None
        self.pause = None
        self.of_the_step.append(raw)

    def result(self, path: Path) -> RunState:
        """The state here, as if every record had been folded."""
        state = self.state
        for raw in self.of_the_step:
            state = fold(state, decoded(raw, str(path)))
        beat = decoded(self.generation, str(path)).event if self.generation else None
        assert beat is None or isinstance(beat, ev.TokensGenerated)
        return replace(
            state,
            seq=self.last[0],
            updated_at=self.last[1],
            started_at=self.first_time,
            generation=beat,
            pause=self.pause,
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """A run read back from its ``events.jsonl``."""

    path: Path
    end: RunState
    """The state after the last whole record; equal to folding every record."""
    offset: int
    """Byte after the last whole record; a `Follower` goes on from here."""
    _ends: dict[int, int]
    """Step → byte after its StepFinished."""
    _snapshots: tuple[_Scan, ...]

    @classmethod
    def open(cls, path: Path) -> Replay:
        """Read a run back.

        Raises:
            OSError: the file cannot be read.
            EventError: a line that had to be read is no event; the message names file and line.
        """
        scan, ends, snapshots = _Scan(), {}, [_Scan()]
        with open(path, "rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # torn: not there yet
                finished = scan.take(raw, path)
                if finished is not None:
                    ends[finished.step] = scan.offset
                    if len(ends) % SNAPSHOT_EVERY == 0:
                        snapshots.append(scan.copy())
        return cls(path, scan.result(path), scan.offset, ends, tuple(snapshots))

    @property
    def steps(self) -> tuple[int, ...]:
        """The finished steps at the time of opening, in order."""
        return tuple(step.step for step in self.end.steps)

    def at(self, step: int) -> RunState:
        """The state right after a step had finished.

        Raises:
            KeyError: the run had not finished that step when it was opened.
            OSError: the file cannot be read any more.
            EventError: a line is no event.
        """
        end = self._ends[step]
        before = bisect.bisect_right([scan.offset for scan in self._snapshots], end) - 1
        scan = self._snapshots[before].copy()
        with open(self.path, "rb") as file:
            file.seek(scan.offset)
            while scan.offset < end:
                scan.take(file.readline(), self.path)
        return scan.result(self.path)
