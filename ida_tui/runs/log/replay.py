"""Replay of a recorded run: fast access to its final state and to the state after any step.

Most events belong to finished steps: texts, verdicts and generation progress. A regular expression passes
over such lines many at a time, and they are parsed only if they belong to the requested step. The result
equals folding every record; `tests/runs/test_replay.py` compares the two.

Memory grows by a few bytes per step: snapshots of the state are taken at intervals, without log records and
memory samples, of which only the file offsets are stored.
"""

from __future__ import annotations

import bisect
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.codec import EventError
from ida_tui.events.figures import FIGURE_EVENTS, MAX_LOG_RECORDS, MAX_MEMORY_SAMPLES, add_figures
from ida_tui.events.state import LOG_EVENTS, RunState, fold
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import decode_line
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import iterate_blocks, iterate_lines, open_regular

_STEP_EVENTS = (
    ev.TokensGenerated,
    ev.RolloutStarted,
    ev.TextGenerated,
    ev.CompletionFinished,
    ev.CompletionScored,
    ev.JudgeProgressed,
    ev.EvaluationProgressed,
)
"""Events that change nothing after the end of their step; of `TokensGenerated` the newest one counts."""
_LINES = re.compile(
    rb'(?:%s(?:%s)"[^\n]*\n)*([^\n]*\n|)'
    % (
        codec.LINE_PREFIX.replace(b"(", b"(?:"),
        "|".join(event.__name__ for event in _STEP_EVENTS).encode(),
    )
)
"""Lines of step events, as many as follow each other, and the line after them as a group."""
_TOKENS_TYPE = b'"type": "TokensGenerated"'
_PHASE_FIELDS = re.compile(rb', "step": (\d+), "phase": "(\w+)"(?:, "download": null)?\}\r?\n')
SNAPSHOT_INTERVAL_STEPS = 250
"""Smallest number of steps between two snapshots."""


class ReplayCanceled(Exception):
    """The replay was canceled by its caller."""


@dataclass(slots=True)
class _Scan:
    """Position in the event file, and the state of the run at that position."""

    state: RunState = field(default_factory=RunState)
    """The state without the lines of the current step."""
    first_time: str = ""
    last_head: tuple[int, str] = (-1, "")
    """Sequence number and time of the last record, if it is not in `last_step_lines`."""
    last_step_lines: tuple[bytes, int] | None = None
    """A block, and the end of the last record in it, whose head is rarely needed."""
    step: int = 0
    step_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Offsets of the unparsed lines of the current step: start and end of each range."""
    generation: int | None = None
    """Offset of the newest `TokensGenerated`."""
    pause: ev.RunPaused | None = None
    offset: int = 0
    log_offsets: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_LOG_RECORDS))
    """Offsets of the newest log records, oldest first."""
    sample_offsets: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_MEMORY_SAMPLES))
    """Offsets of the newest memory samples, oldest first."""

    def process_block(self, block: bytes, path: Path) -> Iterator[tuple[int, int]]:
        """Process complete lines; yields each finished step and the offset after it.

        Raises:
            EventError: a line that has to be parsed is not an event; the message names file and line.
        """
        base, figures = self.offset, list[ev.Record]()
        for match in _LINES.finditer(block):
            start, line_start, end = match.start(), match.start(1), match.end()
            if line_start > start:
                if not self.first_time:
                    self.first_time = _head_at(block, start)[1]
                self.last_step_lines = (block, line_start)
                self._add_to_step(base + start, base + line_start)
                if (line := _find_last_tokens(block, start, line_start)) is not None:
                    self.generation = base + line
            self.offset = base + line_start
            if end == line_start:
                continue
            raw = match[1]
            head = codec.LINE_START.match(raw)
            if head and head[3] == b"PhaseChanged" and self.first_time:
                if phase := _PHASE_FIELDS.fullmatch(raw, head.end()):
                    self.last_step_lines = (block, end)
                    self._enter_phase(int(phase[1]), phase[2].decode(), base + end)
                    continue
            elif not raw.strip():
                continue
            record = _decode_at(self.offset, raw, path)
            event = record.event
            self.first_time = self.first_time or record.time
            if isinstance(event, FIGURE_EVENTS):
                figures.append(record)
                if isinstance(event, ev.StepFinished):
                    self.log_offsets.append(self.offset)
                    yield event.step, base + end
                elif isinstance(event, ev.MemorySampled):
                    self.sample_offsets.append(self.offset)
            elif isinstance(event, ev.PhaseChanged):
                self._enter_phase(event.step, event.phase, base + end)
            elif isinstance(event, _STEP_EVENTS):
                self._add_to_step(self.offset, base + end)
                if isinstance(event, ev.TokensGenerated):
                    self.generation = self.offset
            else:
                self._flush(figures)
                self._fold(record)
            self.last_head, self.last_step_lines = (record.seq, record.time), None
        self._flush(figures)
        self.offset = base + len(block)

    def _flush(self, figures: list[ev.Record]) -> None:
        if figures:
            self.state = add_figures(self.state, figures)
            figures.clear()

    def resolve_head(self) -> tuple[int, str]:
        """Sequence number and time of the last record."""
        if self.last_step_lines is not None:
            block, end = self.last_step_lines
            self.last_head = _head_at(block, block.rfind(b"\n", 0, end - 1) + 1)
            self.last_step_lines = None
        return self.last_head

    def _fold(self, record: ev.Record) -> None:
        event = record.event
        if isinstance(event, ev.RunResumed):
            # The time between two processes counts from the last line of any type.
            _, time = self.resolve_head()
            self.state = replace(self.state, updated_at=time, pause=self.pause)
            self.pause = None
        elif isinstance(event, ev.RunPaused):
            self.pause = event
        self.state = fold(self.state, record)
        if isinstance(event, LOG_EVENTS):
            self.log_offsets.append(self.offset)

    def _enter_phase(self, step: int, phase: str, end: int) -> None:
        if step != self.step:
            if phase != "update":  # otherwise it reuses the completions of the step before
                self.step_ranges.clear()
            self.step = step
        if phase == "generate":
            self.generation = None
        self.pause = None
        self._add_to_step(self.offset, end)

    def _add_to_step(self, start: int, end: int) -> None:
        if self.step_ranges and self.step_ranges[-1][1] == start:
            start = self.step_ranges.pop()[0]
        self.step_ranges.append((start, end))

    def build_state(self, file: BufferedReader, path: Path) -> RunState:
        """The state at this position, equal to folding every record up to here.

        Raises:
            OSError: the file can no longer be read.
            EventError: a line of the current step is not an event.
        """
        state = self.state
        for start, end in self.step_ranges:
            file.seek(start)
            for raw in iterate_lines(file):
                if raw.strip():
                    state = fold(state, _decode_at(start, raw, path))
                start += len(raw)
                if start >= end:
                    break
        generation = None
        if self.generation is not None:
            file.seek(self.generation)
            generation = _decode_at(self.generation, next(iterate_lines(file)), path).event
        assert generation is None or isinstance(generation, ev.TokensGenerated)
        seq, time = self.resolve_head()
        return replace(
            state,
            seq=seq,
            updated_at=time,
            started_at=self.first_time,
            generation=generation,
            pause=self.pause,
        )


def _head_at(block: bytes, start: int) -> tuple[int, str]:
    """Sequence number and time of the line that starts here, as `codec.encode` writes it."""
    head = codec.LINE_START.match(block, start)
    assert head is not None
    return int(head[1]), head[2].decode()


def _find_last_tokens(block: bytes, start: int, end: int) -> int | None:
    """Start of the last line with a `TokensGenerated` in a part of a block; None if there is none."""
    while (found := block.rfind(_TOKENS_TYPE, start, end)) >= 0:
        line = block.rfind(b"\n", start, found) + 1 or start
        if (head := codec.LINE_START.match(block, line)) and head.end() == found + len(
            _TOKENS_TYPE
        ):
            return line
        end = found
    return None


def _decode_at(offset: int, raw: bytes, path: Path) -> ev.Record:
    """The record in the line at an offset; counts the lines before it only if the line is not an event."""
    try:
        return codec.decode_bytes(raw)
    except EventError as error:
        with open_regular(path) as file:
            number = 1
            for block in iterate_blocks(file):
                number += block.count(b"\n", 0, max(0, offset))
                offset -= len(block)
                if offset <= 0:
                    break
        raise EventError(f"{path}:{number}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A scan that can be continued, with file offsets in place of log records and memory samples."""

    scan: _Scan
    """The scan without log records and memory samples."""
    log_offsets: array[int]
    sample_offsets: array[int]

    @classmethod
    def from_scan(cls, scan: _Scan) -> _Snapshot:
        scan.resolve_head()
        lean = replace(
            scan,
            state=replace(scan.state, log_records=(), memory_samples=()),
            step_ranges=list(scan.step_ranges),
            log_offsets=deque(maxlen=MAX_LOG_RECORDS),
            sample_offsets=deque(maxlen=MAX_MEMORY_SAMPLES),
        )
        return cls(lean, array("q", scan.log_offsets), array("q", scan.sample_offsets))

    def restore(self, file: BufferedReader, path: Path) -> _Scan:
        """The restored scan, with log records and memory samples read back from the file.

        Raises:
            OSError: the file can no longer be read.
            EventError: the file has changed.
        """

        def records_at(offsets: Iterable[int]) -> Iterator[ev.Record]:
            for offset in offsets:
                file.seek(offset)
                yield decode_line(next(iterate_lines(file), b""), f"{path}: byte {offset}")

        recent = tuple(records_at(self.log_offsets))
        samples = tuple(
            record.event
            for record in records_at(self.sample_offsets)
            if isinstance(record.event, ev.MemorySampled)
        )
        return replace(
            self.scan,
            state=replace(self.scan.state, log_records=recent, memory_samples=samples),
            step_ranges=list(self.scan.step_ranges),
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
            for block in iterate_blocks(file):
                # The last line may be incomplete, because it is still being written.
                for step, end in scan.process_block(block[: block.rfind(b"\n") + 1], path):
                    finished.append(min(step, 2**53))
                    ends.append(end)
                if len(ends) >= next_snapshot:
                    snapshots.append(_Snapshot.from_scan(scan))
                    next_snapshot = len(ends) + SNAPSHOT_INTERVAL_STEPS
                if is_canceled():
                    raise ReplayCanceled
            final_state = scan.build_state(file, path)
        return cls(path, final_state, scan.offset, finished, ends, tuple(snapshots))

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
        snapshot = self._snapshots[bisect.bisect_right(offsets, end) - 1]
        with open_regular(self.path) as file:
            scan = snapshot.restore(file, self.path)
            file.seek(scan.offset)
            for block in iterate_blocks(file):
                for _ in scan.process_block(block[: end - scan.offset], self.path):
                    pass
                if scan.offset >= end:
                    break
            return scan.build_state(file, self.path)


def read_final_state(directory: RunDirectory) -> RunState:
    """The state of a run after its last complete record.

    Raises:
        UsageError: its events cannot be read.
    """
    try:
        return Replay.open(directory.events).final_state
    except (OSError, EventError) as error:
        raise UsageError(f"could not read {display_path(directory.path)}: {error}") from None
