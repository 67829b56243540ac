"""Replay of a recorded run: fast access to its final state and to the state after any step.

Most events belong to finished steps: texts, verdicts and generation progress. Such lines are recognized by
their first bytes and parsed only if they belong to the requested step. The result equals folding every
record; `tests/runs/test_replay.py` compares the two.

Memory grows by a few bytes per step: snapshots of the state are taken at intervals, without log records and
memory samples, of which only the file offsets are stored.
"""

from __future__ import annotations

import bisect
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ida_tui.events import types as ev
from ida_tui.events.state import LOGGED, MEMORY_SAMPLES, RECENT, RunState, fold
from ida_tui.runs.log.lines import decoded

# The format that `events.encode` writes; a line of another format or an older version is parsed completely.
_HEAD = re.compile(
    rb'\{"v": %d, "seq": (\d{1,18}), "time": "([0-9TZ:.+-]*)", "type": "(\w+)"' % ev.VERSION
)
_PHASE = re.compile(rb'"step": (\d+), "phase": "(\w+)"\}$')
_OF_THE_STEP = {
    b"RolloutStarted",
    b"TextGenerated",
    b"CompletionFinished",
    b"CompletionScored",
    b"JudgeProgressed",
}
SNAPSHOT_EVERY = 250
"""Number of steps between two snapshots."""
LOOK_UP_EVERY = 2000
"""Number of lines between two checks whether the replay was canceled."""


class GivenUp(Exception):
    """The replay was canceled by its caller."""


@dataclass(slots=True)
class _Scan:
    """Position in the event file, and the state of the run at that position."""

    state: RunState = field(default_factory=RunState)
    """The state without the lines of the current step."""
    first_time: str = ""
    last: tuple[int, str] = (-1, "")
    """Sequence number and time of the last record."""
    step: int = 0
    of_the_step: list[bytes] = field(default_factory=list)
    """Unparsed lines of the current step."""
    generation: bytes | None = None
    pause: ev.RunPaused | None = None
    offset: int = 0
    number: int = 0
    """Number of lines read."""
    logged: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Offsets of the newest log records, oldest first."""
    sampled: deque[int] = field(default_factory=lambda: deque(maxlen=MEMORY_SAMPLES))
    """Offsets of the newest memory samples, oldest first."""

    def take(self, raw: bytes, path: Path) -> ev.StepFinished | None:
        """Process one complete line; returns its event if it is a StepFinished."""
        start = self.offset
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
        if isinstance(record.event, LOGGED):
            self.logged.append(start)
        elif isinstance(record.event, ev.MemorySampled):
            self.sampled.append(start)
        if isinstance(record.event, ev.RunPaused):
            self.pause = record.event
        elif isinstance(record.event, ev.RunResumed):
            self.pause = None
        return record.event if isinstance(record.event, ev.StepFinished) else None

    def _phase_changed(self, raw: bytes, path: Path) -> None:
        match = _PHASE.search(raw.rstrip())
        if match:
            step, phase = int(match[1]), match[2].decode()
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
        """The state at this position, equal to folding every record up to here."""
        state = self.state
        for raw in self.of_the_step:
            state = fold(state, decoded(raw, str(path)))
        generation = decoded(self.generation, str(path)).event if self.generation else None
        assert generation is None or isinstance(generation, ev.TokensGenerated)
        return replace(
            state,
            seq=self.last[0],
            updated_at=self.last[1],
            started_at=self.first_time,
            generation=generation,
            pause=self.pause,
        )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A scan that can be continued, with file offsets in place of log records and memory samples."""

    scan: _Scan
    """The scan without log records and memory samples."""
    logged: array[int]
    sampled: array[int]

    @classmethod
    def of(cls, scan: _Scan) -> _Snapshot:
        lean = replace(
            scan,
            state=replace(scan.state, recent=(), memory_recent=()),
            of_the_step=list(scan.of_the_step),
            logged=deque(maxlen=RECENT),
            sampled=deque(maxlen=MEMORY_SAMPLES),
        )
        return cls(lean, array("q", scan.logged), array("q", scan.sampled))

    def taken_up(self, path: Path) -> _Scan:
        """The restored scan, with log records and memory samples read back from the file.

        Raises:
            OSError: the file can no longer be read.
            EventError: the file has changed.
        """
        with open(path, "rb") as file:

            def records_at(offsets: Iterable[int]) -> Iterable[ev.Record]:
                for offset in offsets:
                    file.seek(offset)
                    yield decoded(file.readline(), f"{path}: byte {offset}")

            recent = tuple(records_at(self.logged))
            samples = tuple(
                record.event
                for record in records_at(self.sampled)
                if isinstance(record.event, ev.MemorySampled)
            )
        return replace(
            self.scan,
            state=replace(self.scan.state, recent=recent, memory_recent=samples),
            of_the_step=list(self.scan.of_the_step),
            logged=deque(self.logged, RECENT),
            sampled=deque(self.sampled, MEMORY_SAMPLES),
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded run, read from its ``events.jsonl``."""

    path: Path
    end: RunState
    """The state after the last complete record; equal to folding every record."""
    offset: int
    """Offset after the last complete record; a `Follower` can continue here."""
    _finished: array[float]
    """The steps in the order in which they finished; a resumed run can finish a step twice."""
    _ends: array[int]
    """For each of these steps, the offset after its StepFinished."""
    _snapshots: tuple[_Snapshot, ...]

    @classmethod
    def open(cls, path: Path, given_up: Callable[[], bool] = lambda: False) -> Replay:
        """Read a run from disk.

        Args:
            path: the event file.
            given_up: polled regularly; returns true to cancel.

        Raises:
            OSError: the file cannot be read.
            EventError: a line that had to be parsed is not an event; the message names file and line.
            GivenUp: `given_up` returned true.
        """
        scan, finished, ends = _Scan(), array("d"), array("q")
        snapshots = [_Snapshot.of(scan)]
        next_snapshot = SNAPSHOT_EVERY
        with open(path, "rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # an incomplete line, still being written
                step = scan.take(raw, path)
                if step is not None:
                    finished.append(min(step.step, 2**53))
                    ends.append(scan.offset)
                elif len(ends) >= next_snapshot and len(scan.of_the_step) <= 1:
                    # At the start of a step, when there are no lines of the step to store.
                    snapshots.append(_Snapshot.of(scan))
                    next_snapshot = len(ends) + SNAPSHOT_EVERY
                if scan.number % LOOK_UP_EVERY == 0 and given_up():
                    raise GivenUp
        return cls(path, scan.result(path), scan.offset, finished, ends, tuple(snapshots))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were finished when the run was opened, in order."""
        return tuple(int(step or 0) for step in self.end.steps.figures("step"))

    def at(self, step: int) -> RunState:
        """The state right after a step finished.

        Raises:
            KeyError: the step was not finished when the run was opened.
            OSError: the file can no longer be read.
            EventError: a line is not an event.
        """
        # A step that finished twice counts with its last occurrence.
        position = next(
            (n for n in reversed(range(len(self._ends))) if self._finished[n] == step), None
        )
        if position is None:
            raise KeyError(step)
        end = self._ends[position]
        offsets = [snapshot.scan.offset for snapshot in self._snapshots]
        scan = self._snapshots[bisect.bisect_right(offsets, end) - 1].taken_up(self.path)
        with open(self.path, "rb") as file:
            file.seek(scan.offset)
            while scan.offset < end and (raw := file.readline()):
                scan.take(raw, self.path)
        return scan.result(self.path)
