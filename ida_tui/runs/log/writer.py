"""The event log: gives every event its number, keeps it on disk, and hands it on.

`EventLog.emit` may be called from any thread. A record is on disk (flushed to the operating system)
before anyone is shown it; the file is fsynced when a step, a checkpoint or the run ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import Appender
from ida_tui.runs.log.disk_errors import Refusal, refusal
from ida_tui.util.text import as_json

DURABLE = (
    ev.RunStarted,
    ev.RunPaused,
    ev.RunResumed,
    ev.StepFinished,
    ev.CheckpointSaved,
    ev.EvaluationFinished,
    ev.RunEnded,
)
LOOK_AGAIN_S = 0.5
PUT_BACK = (
    "the run's directory was moved or removed: it was made anew with every event and completion so far; "
    "checkpoints begin with the next one"
)


class Subscriber(Protocol):
    """Whoever is handed every record; a queue is one. It is called where events are emitted: never waits."""

    def put(self, record: ev.Record, /) -> object:
        """Take one record."""


class EventLog:
    """Writes ``events.jsonl`` and ``completions.jsonl`` and feeds every subscriber's queue.

    Args:
        directory: where the run is kept; its files are made if they are not there.
        first_seq: number of the first record.
        redact: applied to every line before it is written, so that no secret reaches the disk.
        gives_up: asked while the disk refuses to be written to; true ends the wait.
        put_back: called after the directory had to be made anew, to write what else belongs into it.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        first_seq: int = 0,
        redact: Callable[[str], str] = lambda text: text,
        gives_up: Callable[[], bool] = lambda: True,
        put_back: Callable[[], object] = lambda: None,
    ) -> None:
        self._directory = directory
        self._seq = first_seq
        self._redact = redact
        self._gives_up = gives_up
        self._put_back = put_back
        self._step = 0
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        _drop_torn_tail(directory.events)
        _drop_torn_tail(directory.completions)
        self._events = Appender(directory.events)
        self._completions = Appender(directory.completions)
        self._texts: dict[tuple[int, int], ev.CompletionFinished] = {}
        self._texts_step = -1

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hand it every record emitted from now on, in order."""
        with self._lock:
            self._subscribers.append(subscriber)

    def emit(self, event: ev.Event) -> ev.Record:
        """Number, write and hand on one event; returns its record. Waits while the disk refuses it.

        Raises:
            OSError: the disk refused it; nothing was handed on.
        """
        with self._lock:
            line = self._redact(ev.encode(ev.Record(self._seq, ev.now(), event)))
            # What faces see is what the disk holds: the same redaction, the same rounding.
            record = ev.decode(line)
            self._write(self._events, line, durable=isinstance(event, DURABLE))
            self._keep_completion(record.event)
            self._seq += 1
            if isinstance(event, ev.StepFinished):
                self._step = event.step
            self._hand_on(record)
        if isinstance(event, DURABLE) and self._events.is_gone():
            self._make_anew()
        return record

    def _make_anew(self) -> None:
        """The directory is gone: make it again, and say so.

        Raises:
            OSError: it cannot be made.
        """
        with self._lock:
            if not self._events.is_gone():
                return
            self._directory.logs.mkdir(parents=True, exist_ok=True)
            for file in (self._events, self._completions):
                file.put_back()
            self._put_back()
        self.emit(ev.Noticed(level="warning", source="disk", text=PUT_BACK))

    def _hand_on(self, record: ev.Record) -> None:
        for subscriber in self._subscribers:
            subscriber.put(record)

    def close(self) -> None:
        """Close the files; nothing can be emitted afterwards."""
        with self._lock:
            self._events.close()
            self._completions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep_completion(self, event: ev.Event) -> None:
        """Join a completion's text and its verdict into one line of ``completions.jsonl``."""
        if isinstance(event, ev.CompletionFinished):
            if event.step != self._texts_step:
                self._texts, self._texts_step = {}, event.step
            self._texts[event.group, event.index] = event
        elif isinstance(event, ev.CompletionScored):
            text = self._texts.pop((event.group, event.index), None)
            if text is not None:
                row = asdict(text) | asdict(event)
                self._write(self._completions, as_json(row), durable=False)

    def _write(self, file: Appender, line: str, *, durable: bool) -> None:
        """Add a line, and wait where the disk refuses it: everyone who emits stands still meanwhile.

        The pause is shown and not written, for that is what the disk refuses.
        """
        refused: Refusal | None = None
        while True:
            try:
                file.write(line, durable=durable)
                break
            except OSError as error:
                now = refusal(error, self._directory.path)
                if now is None or self._gives_up():
                    raise
            if now != refused:
                refused = now
                paused = ev.RunPaused(self._step, now.reason, now.hint, by="disk")
                self._hand_on(ev.Record(self._seq, ev.now(), paused))
            threading.Event().wait(LOOK_AGAIN_S)
        if refused:
            self._hand_on(ev.Record(self._seq, ev.now(), ev.RunResumed(self._step)))


def _drop_torn_tail(path: Path) -> None:
    """Cut off the last line if the process that wrote it died in the middle of it."""
    try:
        file = open(path, "r+b")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
