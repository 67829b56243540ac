"""Open a run from disk: its end at once, and any earlier step when somebody looks back.

Most of what a run wrote is about a step that is over: texts, verdicts, beats of the generation. Those lines
are recognised by their first bytes and not even parsed, unless they belong to the step that is asked for. The
state is the same as if every record had been folded; `tests/runs/test_replay.py` compares the two.

What is held grows by a few bytes a step: to look back, a state is kept now and then without its log and its
samples, whose places in the file are remembered instead.
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

# As `events.encode` writes a line; one that looks different, or is of an older version, is parsed whole.
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
"""Steps between two states that are kept to look back from."""
LOOK_UP_EVERY = 2000
"""Lines that are read before somebody is asked whether they are still wanted."""


class GivenUp(Exception):
    """Whoever asked for a run does not want it any more."""


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
    logged: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Where the lines of the log are, oldest first."""
    sampled: deque[int] = field(default_factory=lambda: deque(maxlen=MEMORY_SAMPLES))
    """Where the newest samples of the memory are, oldest first."""

    def take(self, raw: bytes, path: Path) -> ev.StepFinished | None:
        """Take in one whole line; returns the step that it finishes, if it finishes one."""
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
class _Snapshot:
    """A scan that can be taken up again, without what the file has anyway."""

    scan: _Scan
    """Without its log and its samples."""
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
        """The scan as it was.

        Raises:
            OSError: the file cannot be read any more.
            EventError: it is not the file that it was.
        """
        with open(path, "rb") as file:

            def at(offsets: Iterable[int]) -> Iterable[ev.Record]:
                for offset in offsets:
                    file.seek(offset)
                    yield decoded(file.readline(), f"{path}: byte {offset}")

            recent = tuple(at(self.logged))
            samples = tuple(
                record.event
                for record in at(self.sampled)
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
    """A run read back from its ``events.jsonl``."""

    path: Path
    end: RunState
    """The state after the last whole record; equal to folding every record."""
    offset: int
    """Byte after the last whole record; a `Follower` goes on from here."""
    _finished: array[float]
    """The steps in the order in which they were finished; a step can be finished twice."""
    _ends: array[int]
    """For each of them the byte after its StepFinished."""
    _snapshots: tuple[_Snapshot, ...]

    @classmethod
    def open(cls, path: Path, given_up: Callable[[], bool] = lambda: False) -> Replay:
        """Read a run back.

        Args:
            path: its events.
            given_up: asked now and then whether the run is not wanted any more.

        Raises:
            OSError: the file cannot be read.
            EventError: a line that had to be read is no event; the message names file and line.
            GivenUp: it is not wanted any more.
        """
        scan, finished, ends = _Scan(), array("d"), array("q")
        snapshots = [_Snapshot.of(scan)]
        due = SNAPSHOT_EVERY
        with open(path, "rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # torn: not there yet
                step = scan.take(raw, path)
                if step is not None:
                    finished.append(min(step.step, 2**53))
                    ends.append(scan.offset)
                elif len(ends) >= due and len(scan.of_the_step) <= 1:
                    # As a step begins, when there is nothing else to keep.
                    snapshots.append(_Snapshot.of(scan))
                    due = len(ends) + SNAPSHOT_EVERY
                if scan.number % LOOK_UP_EVERY == 0 and given_up():
                    raise GivenUp
        return cls(path, scan.result(path), scan.offset, finished, ends, tuple(snapshots))

    @property
    def steps(self) -> tuple[int, ...]:
        """The finished steps at the time of opening, in order."""
        return tuple(int(step or 0) for step in self.end.steps.figures("step"))

    def at(self, step: int) -> RunState:
        """The state right after a step had finished.

        Raises:
            KeyError: the run had not finished that step when it was opened.
            OSError: the file cannot be read any more.
            EventError: a line is no event.
        """
        # The last time that it was finished is what counts.
        at = next((n for n in reversed(range(len(self._ends))) if self._finished[n] == step), None)
        if at is None:
            raise KeyError(step)
        end = self._ends[at]
        offsets = [snapshot.scan.offset for snapshot in self._snapshots]
        scan = self._snapshots[bisect.bisect_right(offsets, end) - 1].taken_up(self.path)
        with open(self.path, "rb") as file:
            file.seek(scan.offset)
            while scan.offset < end and (raw := file.readline()):
                scan.take(raw, self.path)
        return scan.result(self.path)
