"""Dispatcher that sends the events of a run to its sinks, each on a separate thread.

A sink cannot harm the run: if it fails, hangs or falls behind, it is disabled with one warning.
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
"""Maximum number of events in the queue of a sink."""
HANGS_S = 120.0
"""Seconds after which a call to a sink counts as hung."""
TAKEN = (ev.StepFinished, ev.EvaluationFinished, ev.AlertRaised)


@dataclass(slots=True)
class _Line:
    """One sink with its thread and its queue of events; None in the queue marks the end."""

    sink: Sink
    thread: threading.Thread | None = None
    waiting: queue.SimpleQueue[ev.Event | None] = field(default_factory=queue.SimpleQueue)
    busy_since: float | None = None
    off: str = ""
    """Why the sink is disabled; empty while it is enabled."""
    told: bool = False
    last_words: str = ""


class Feed:
    """The sinks of one run; subscribe this object to the run's event log.

    Args:
        sinks: destinations of the metrics.
        place: the run.
        tell: receives notices for the log; called on the threads of the sinks.
        hangs_s: maximum seconds for one call to a sink.
        most_waiting: maximum number of events in the queue of a sink.
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
        """Queue a record for the sinks; never blocks, because it runs on the thread that emits the record.

        The sinks start when the model is loaded, so a run that fails earlier leaves no trace in them.
        """
        if isinstance(record.event, ev.RunStarted) and not self._started:
            self._start()
        if not isinstance(record.event, TAKEN):
            return
        for line in self._lines:
            if line.off:
                continue
            if line.waiting.qsize() >= self._most_waiting:
                line.off = f"{self._most_waiting:,} events are waiting in its queue"
            else:
                line.waiting.put(record.event)

    def look(self) -> None:
        """Disable sinks that hang, with a warning; call this regularly from a thread that may emit events."""
        for line in self._lines:
            since = line.busy_since
            if not line.off and since is not None and time.monotonic() - since > self._hangs_s:
                line.off = f"no response for {self._hangs_s:.0f} s"
            if line.off:
                self._warn(line)

    def end(self, ended: ev.RunEnded, limit_s: float) -> None:
        """Send the end of the run to the sinks and wait for them.

        Args:
            ended: the last event of the run.
            limit_s: maximum seconds for all sinks together; sinks that are not done by then are abandoned.
        """
        deadline = time.monotonic() + limit_s
        for line in self._lines:
            line.waiting.put(ended)
            line.waiting.put(None)
        for line in self._lines:
            if line.thread is not None:
                line.thread.join(max(0.0, deadline - time.monotonic()))
                if line.thread.is_alive() and not line.off:
                    line.off = f"it did not finish within {limit_s:.0f} s after the end of the run"
            if line.off:
                self._warn(line)
            elif line.last_words:
                self._say("info", line, line.last_words)
        self._over = True

    def _serve(self, line: _Line) -> None:
        """Thread of one sink: handles one event after another until the end or the first failure."""
        try:
            line.busy_since = time.monotonic()
            text = line.sink.start(self._place)
            line.busy_since = None
            if text and not line.off:
                self._say("info", line, text)
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
        text = f"{line.sink.name} is disabled: {line.off}; the run continues without it"
        self._say("warning", line, text)

    def _say(self, level: ev.Level, line: _Line, text: str) -> None:
        if self._over:
            return
        # If the disk rejects this line, the run itself reports the disk error.
        with contextlib.suppress(OSError):
            self._tell(ev.Noticed(level=level, source=line.sink.name, text=text))
