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

from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.codec import EventError
from ida_tui.events.state import LOG_EVENTS, MAX_LOG_RECORDS, MAX_MEMORY_SAMPLES, RunState, fold
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import decode_line
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import iterate_lines, open_regular

# The format that `codec.encode` writes; a line of another format or an older version is parsed completely.
_LINE_START = re.compile(
    rb'\{"v": %d, "seq": (\d{1,18}), "time": "([0-9TZ:.+-]*)", "type": "(\w+)"' % codec.VERSION
)
_PHASE_FIELDS = re.compile(rb'"step": (\d+), "phase": "(\w+)"(?:, "download": null)?\}$')
_STEP_EVENTS = {
    b"RolloutStarted",
    b"TextGenerated",
    b"CompletionFinished",
    b"CompletionScored",
    b"JudgeProgressed",
    b"EvaluationProgressed",
}
SNAPSHOT_INTERVAL_STEPS = 250
"""Number of steps between two snapshots."""
CANCEL_CHECK_LINES = 2000
"""Number of lines between two checks whether the replay was canceled."""


class ReplayCanceled(Exception):
    """The replay was canceled by its caller."""


_Head = re.Match[bytes] | tuple[None, int, str]
"""A record of which only the start was read: its number and its time are the items 1 and 2."""


def _time_of(head: _Head) -> str:
    time = head[2]
    return time.decode() if isinstance(time, bytes) else time


@dataclass(slots=True)
class _Scan:
    """Position in the event file, and the state of the run at that position."""

    state: RunState = field(default_factory=RunState)
    """The state without the lines of the current step."""
    first_time: str = ""
    last_head: _Head = (None, -1, "")
    """Sequence number and time of the last record."""
    step: int = 0
    step_lines: list[bytes] = field(default_factory=list)
    """Unparsed lines of the current step."""
    generation: bytes | None = None
    pause: ev.RunPaused | None = None
    offset: int = 0
    line_number: int = 0
    """Number of lines read."""
    log_offsets: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_LOG_RECORDS))
    """Offsets of the newest log records, oldest first."""
    sample_offsets: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_MEMORY_SAMPLES))
    """Offsets of the newest memory samples, oldest first."""

    def process_line(self, raw: bytes, path: Path) -> ev.StepFinished | None:
        """Process one complete line; returns its event if it is a StepFinished."""
        start, previous = self.offset, self.last_head
        self.offset += len(raw)
        self.line_number += 1
        head = _LINE_START.match(raw)
        record = None
        if head:
            kind = head[3]
            self.last_head = head
        elif raw.strip():
            record = decode_line(raw, f"{path}:{self.line_number}")
            kind = type(record.event).__name__.encode()
            self.last_head = (None, record.seq, record.time)
        else:
            return None
        if not self.first_time:
            self.first_time = _time_of(self.last_head)
        if kind in _STEP_EVENTS:
            self.step_lines.append(raw)
            return None
        if kind == b"TokensGenerated":
            self.generation = raw
            return None
        if kind == b"PhaseChanged":
            self._phase_changed(raw, path)
            return None
        record = record or decode_line(raw, f"{path}:{self.line_number}")
        if isinstance(record.event, ev.RunResumed):
            # The time between two processes counts from the last line of any type.
            self.state = replace(self.state, updated_at=_time_of(previous), pause=self.pause)
        self.state = fold(self.state, record)
        if isinstance(record.event, LOG_EVENTS):
            self.log_offsets.append(start)
        elif isinstance(record.event, ev.MemorySampled):
            self.sample_offsets.append(start)
        if isinstance(record.event, ev.RunPaused):
            self.pause = record.event
        elif isinstance(record.event, ev.RunResumed):
            self.pause = None
        return record.event if isinstance(record.event, ev.StepFinished) else None

    def _phase_changed(self, raw: bytes, path: Path) -> None:
        match = _PHASE_FIELDS.search(raw.rstrip())
        if match:
            step, phase = int(match[1]), match[2].decode()
        else:
            event = decode_line(raw, f"{path}:{self.line_number}").event
            assert isinstance(event, ev.PhaseChanged)
            step, phase = event.step, event.phase
        if step != self.step:
            if phase != "update":  # otherwise it reuses the completions of the step before
                self.step_lines.clear()
            self.step = step
        if phase == "generate":
            self.generation = None
        self.pause = None
        self.step_lines.append(raw)

    def build_state(self, path: Path) -> RunState:
        """The state at this position, equal to folding every record up to here."""
        state = self.state
        for raw in self.step_lines:
            state = fold(state, decode_line(raw, str(path)))
        generation = decode_line(self.generation, str(path)).event if self.generation else None
        assert generation is None or isinstance(generation, ev.TokensGenerated)
        return replace(
            state,
            seq=int(self.last_head[1]),
            updated_at=_time_of(self.last_head),
            started_at=self.first_time,
            generation=generation,
            pause=self.pause,
        )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A scan that can be continued, with file offsets in place of log records and memory samples."""

    scan: _Scan
    """The scan without log records and memory samples."""
    log_offsets: array[int]
    sample_offsets: array[int]

    @classmethod
    def from_scan(cls, scan: _Scan) -> _Snapshot:
        lean = replace(
            scan,
            state=replace(scan.state, log_records=(), memory_samples=()),
            step_lines=list(scan.step_lines),
            log_offsets=deque(maxlen=MAX_LOG_RECORDS),
            sample_offsets=deque(maxlen=MAX_MEMORY_SAMPLES),
        )
        return cls(lean, array("q", scan.log_offsets), array("q", scan.sample_offsets))

    def restore(self, path: Path) -> _Scan:
        """The restored scan, with log records and memory samples read back from the file.

        Raises:
            OSError: the file can no longer be read.
            EventError: the file has changed.
        """
        with open_regular(path) as file:

            def records_at(offsets: Iterable[int]) -> Iterable[ev.Record]:
                for offset in offsets:
                    file.seek(offset)
                    yield decode_line(file.readline(), f"{path}: byte {offset}")

            recent = tuple(records_at(self.log_offsets))
            samples = tuple(
                record.event
                for record in records_at(self.sample_offsets)
                if isinstance(record.event, ev.MemorySampled)
            )
        return replace(
            self.scan,
            state=replace(self.scan.state, log_records=recent, memory_samples=samples),
            step_lines=list(self.scan.step_lines),
            log_offsets=deque(self.log_offsets, MAX_LOG_RECORDS),
            sample_offsets=deque(self.sample_offsets, MAX_MEMORY_SAMPLES),
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded run, read from its `events.jsonl`."""

    path: Path
    final_state: RunState
    """The state after the last complete record; equal to folding every record."""
    offset: int
    """Offset after the last complete record; a `Follower` can continue here."""
    _finished_steps: array[float]
    """The steps in the order in which they finished; a resumed run can finish a step twice."""
    _end_offsets: array[int]
    """For each of these steps, the offset after its StepFinished."""
    _snapshots: tuple[_Snapshot, ...]

    @classmethod
    def open(cls, path: Path, is_canceled: Callable[[], bool] = lambda: False) -> Replay:
        """Read a run from disk.

        Args:
            path: the event file.
            is_canceled: polled regularly; returns true to cancel.

        Raises:
            OSError: the file cannot be read.
            EventError: a line that had to be parsed is not an event; the message names file and line.
            ReplayCanceled: `is_canceled` returned true.
        """
        scan, finished, ends = _Scan(), array("d"), array("q")
        snapshots = [_Snapshot.from_scan(scan)]
        next_snapshot = SNAPSHOT_INTERVAL_STEPS
        with open_regular(path) as file:
            for raw in iterate_lines(file):
                if not raw.endswith(b"\n"):
                    break  # an incomplete line, still being written
                step = scan.process_line(raw, path)
                if step is not None:
                    finished.append(min(step.step, 2**53))
                    ends.append(scan.offset)
                elif len(ends) >= next_snapshot and len(scan.step_lines) <= 1:
                    # At the start of a step, when there are no lines of the step to store.
                    snapshots.append(_Snapshot.from_scan(scan))
                    next_snapshot = len(ends) + SNAPSHOT_INTERVAL_STEPS
                if scan.line_number % CANCEL_CHECK_LINES == 0 and is_canceled():
                    raise ReplayCanceled
        return cls(path, scan.build_state(path), scan.offset, finished, ends, tuple(snapshots))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were finished when the run was opened, in order."""
        return tuple(int(step or 0) for step in self.final_state.steps.column("step"))

    def state_at(self, step: int) -> RunState:
        """The state right after a step finished.

        Raises:
            KeyError: the step was not finished when the run was opened.
            OSError: the file can no longer be read.
            EventError: a line is not an event.
        """
        # A step that finished twice counts with its last occurrence.
        position = next(
            (n for n in reversed(range(len(self._end_offsets))) if self._finished_steps[n] == step),
            None,
        )
        if position is None:
            raise KeyError(step)
        end = self._end_offsets[position]
        offsets = [snapshot.scan.offset for snapshot in self._snapshots]
        scan = self._snapshots[bisect.bisect_right(offsets, end) - 1].restore(self.path)
        with open_regular(self.path) as file:
            file.seek(scan.offset)
            while scan.offset < end and (raw := file.readline()):
                scan.process_line(raw, self.path)
        return scan.build_state(self.path)


def read_final_state(directory: RunDirectory) -> RunState:
    """The state of a run after its last complete record.

    Raises:
        UsageError: its events cannot be read.
    """
    try:
        return Replay.open(directory.events).final_state
    except (OSError, EventError) as error:
        raise UsageError(f"could not read {display_path(directory.path)}: {error}") from None
