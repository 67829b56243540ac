"""Hands a run's events to its sinks, each on a thread of its own, once they are on the run's disk.

No sink can harm the run: one that fails, hangs or falls behind is warned about once and switched off.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import Place, Sink

MOST_WAITING = 5_000
"""Events that may wait for a sink."""
HANGS_S = 120.0
"""One call of a sink that takes so long is given up."""
TAKEN = (ev.StepFinished, ev.EvaluationFinished, ev.AlertRaised)


@dataclass(slots=True)
class _Line:
    """One sink, and what waits for it; a null in the queue is the end."""

    sink: Sink
    thread: threading.Thread | None = None
    waiting: queue.SimpleQueue[ev.Event | None] = field(default_factory=queue.SimpleQueue)
    busy_since: float | None = None
    off: str = ""
    """Why it gets nothing any more."""
    told: bool = False
    last_words: str = ""


class Feed:
    """The sinks of one run; subscribe it to the run's log.

    Args:
        sinks: where figures go.
        place: the run.
        tell: takes what a person should know; called on the sinks' threads.
        hangs_s: seconds that one call of a sink may take.
        most_waiting: events that may wait for a sink.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        place: Place,
        tell: Callable[[ev.Noticed], object],
        *,
        hangs_s: float = HANGS_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._place = place
        self._tell = tell
        self._hangs_s = hangs_s
        self._most_waiting = most_waiting
        self._lines = [_Line(sink) for sink in sinks]
        self._lock = threading.Lock()
        self._over = False

    @property
    def _started(self) -> bool:
        return any(line.thread is not None for line in self._lines)

    def _start(self) -> None:
        for line in self._lines:
            name = f"ida-{line.sink.name}"
            line.thread = threading.Thread(target=self._serve, args=(line,), name=name, daemon=True)
            line.thread.start()

    def put(self, record: ev.Record) -> None:
        """Take a record; called where it is emitted, so it only puts it by.

        They are opened when the model is loaded: a run that does not come so far leaves nothing anywhere.
        """
        if isinstance(record.event, ev.RunStarted) and not self._started:
            self._start()
        if not isinstance(record.event, TAKEN):
            return
        for line in self._lines:
            if line.off:
                continue
            if line.waiting.qsize() >= self._most_waiting:
                line.off = f"{self._most_waiting:,} events wait for it"
            else:
                line.waiting.put(record.event)

    def look(self) -> None:
        """Switch off what hangs, and say so; asked now and then from a thread that may emit."""
        for line in self._lines:
            since = line.busy_since
            if not line.off and since is not None and time.monotonic() - since > self._hangs_s:
                line.off = f"no answer for {self._hangs_s:.0f} s"
            if line.off:
                self._warn(line)

    def end(self, ended: ev.RunEnded, limit_s: float) -> None:
        """Tell the sinks how the run ended, and wait for them.

        Args:
            ended: the run in figures.
            limit_s: seconds that all of them together may take; who is not done then is left behind.
        """
        until = time.monotonic() + limit_s
        for line in self._lines:
            line.waiting.put(ended)
            line.waiting.put(None)
        for line in self._lines:
            if line.thread is not None:
                line.thread.join(max(0.0, until - time.monotonic()))
                if line.thread.is_alive() and not line.off:
                    line.off = f"not done within {limit_s:.0f} s of the run's end"
            if line.off:
                self._warn(line)
            elif line.last_words:
                self._say("info", line, line.last_words)
        self._over = True

    def _serve(self, line: _Line) -> None:
        """A sink's thread: one event after the other, until the end or the first failure."""
        try:
            line.busy_since = time.monotonic()
            said = line.sink.start(self._place)
            line.busy_since = None
            if said and not line.off:
                self._say("info", line, said)
            while (event := line.waiting.get()) is not None and not line.off:
                line.busy_since = time.monotonic()
                self._hand(line, event)
                line.busy_since = None
        except Exception as error:
            line.off = line.off or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._warn(line)

    def _hand(self, line: _Line, event: ev.Event) -> None:
        match event:
            case ev.StepFinished():
                line.sink.step(event)
            case ev.EvaluationFinished() | ev.AlertRaised():
                line.sink.note(event)
            case ev.RunEnded():
                line.last_words = line.sink.end(event)

    def _warn(self, line: _Line) -> None:
        with self._lock:
            if line.told:
                return
            line.told = True
        text = f"{line.sink.name} gets no more figures: {line.off}; the run is not affected"
        self._say("warning", line, text)

    def _say(self, level: ev.Level, line: _Line, text: str) -> None:
        if self._over:
            return
        # A disk that refuses these words is the run's trouble, and the run says so itself.
        with contextlib.suppress(OSError):
            self._tell(ev.Noticed(level=level, source=line.sink.name, text=text))
