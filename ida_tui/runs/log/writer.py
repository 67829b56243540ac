"""Event log of a run: numbers every event, writes it to disk and forwards it to subscribers.

`EventLog.emit` may be called from any thread. A record is written to the file before subscribers receive it;
the file is fsynced after important events, such as the end of a step, a checkpoint or the end of the run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import DurableAppender
from ida_tui.runs.log.disk_errors import (
    MIN_REPORTED_WAIT_S,
    disk_wait_notice,
    retry_while_disk_refuses,
)
from ida_tui.util.safe_files import copy_if_hard_linked, open_descriptor
from ida_tui.util.text import as_json

DURABLE_EVENTS = (
    ev.RunStarted,
    ev.RunPaused,
    ev.RunResumed,
    ev.StepFinished,
    ev.CheckpointSaved,
    ev.EvaluationFinished,
    ev.RunEnded,
)
RECREATED_NOTICE = (
    "the run directory was moved or removed; it was recreated with all events and completions so far, but "
    "without the earlier checkpoints"
)


class Subscriber(Protocol):
    """A receiver of records, such as a queue; `put` runs on the emitting thread and must not block."""

    def put(self, record: ev.Record, /) -> object:
        """Receive one record."""


class EventLog:
    """Writes `events.jsonl` and `completions.jsonl` and forwards every record to the subscribers.

    Args:
        directory: the run directory; missing files are created.
        first_seq: sequence number of the first record.
        redact: removes secrets from every line before it is written.
        stop_waiting: polled while the disk rejects writes; true ends the wait with an error.
        on_recreated: called after the directory was recreated, to restore its other files.
        while_waiting: entered while the disk rejects writes, such as to stop the run's clock.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        first_seq: int = 0,
        redact: Callable[[str], str] = lambda text: text,
        stop_waiting: Callable[[], bool] = lambda: True,
        on_recreated: Callable[[], object] = lambda: None,
        while_waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._directory = directory
        self._seq = first_seq
        self._redact = redact
        self._stop_waiting = stop_waiting
        self._on_recreated = on_recreated
        self._while_waiting = while_waiting
        self._waited_s = 0.0
        self._step = 0
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        _remove_incomplete_line(directory.events)
        _remove_incomplete_line(directory.completions)
        self._events = DurableAppender(directory.events)
        self._completions = DurableAppender(directory.completions)
        self._pending_completions: dict[tuple[int, int], ev.CompletionFinished] = {}
        self._pending_step = -1

    def subscribe(self, subscriber: Subscriber) -> None:
        """Forward every record emitted from now on to `subscriber`, in order."""
        with self._lock:
            self._subscribers.append(subscriber)

    def emit(self, event: ev.Event) -> ev.Record:
        """Number, write and forward one event; returns its record. Waits while the disk rejects writes.

        Raises:
            OSError: the write failed; the event was not forwarded.
        """
        with self._lock:
            line = self._redact(codec.encode(ev.Record(self._seq, ev.current_timestamp(), event)))
            # Subscribers receive exactly what is on disk: redacted, and rounded like the JSON.
            record = codec.decode_bytes(line.encode())
            self._write(self._events, line, durable=isinstance(event, DURABLE_EVENTS))
            self._write_completion(record.event)
            self._seq += 1
            if isinstance(event, ev.StepFinished):
                self._step = event.step
            self._forward(record)
            waited_s, self._waited_s = self._waited_s, 0.0
        if waited_s >= MIN_REPORTED_WAIT_S and not isinstance(event, ev.RunEnded):
            self.emit(disk_wait_notice(waited_s))
        if isinstance(event, DURABLE_EVENTS) and self._events.is_missing():
            self._recreate_directory()
        return record

    def _recreate_directory(self) -> None:
        """Recreate the missing run directory and log a warning.

        Raises:
            OSError: the directory cannot be created.
        """
        with self._lock:
            if not self._events.is_missing():
                return
            self._directory.logs.mkdir(parents=True, exist_ok=True)
            for file in (self._events, self._completions):
                file.recreate()
            self._on_recreated()
        self.emit(ev.Noticed(level="warning", source="disk", text=RECREATED_NOTICE))

    def _forward(self, record: ev.Record) -> None:
        for subscriber in self._subscribers:
            subscriber.put(record)

    def close(self) -> None:
        """Close the files; nothing can be emitted afterwards."""
        with self._lock:
            self._events.close()
            self._completions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_completion(self, event: ev.Event) -> None:
        """Write a completion and its verdict as one line of `completions.jsonl`."""
        if isinstance(event, ev.CompletionFinished):
            if event.step != self._pending_step:
                self._pending_completions, self._pending_step = {}, event.step
            self._pending_completions[event.group, event.index] = event
        elif isinstance(event, ev.CompletionScored):
            completion = self._pending_completions.pop((event.group, event.index), None)
            if completion is not None:
                row = codec.event_fields(completion) | codec.event_fields(event)
                self._write(self._completions, as_json(row), durable=False)

    def _write(self, file: DurableAppender, line: str, *, durable: bool) -> None:
        """Append a line; while the disk rejects it, wait and block all threads that emit events.

        The pause is forwarded to subscribers but not written, because the disk rejects writes.
        """

        def notify(event: ev.RunPaused | ev.RunResumed) -> None:
            self._forward(ev.Record(self._seq, ev.current_timestamp(), event))

        def wait(seconds: float) -> None:
            started = time.monotonic()
            with self._while_waiting():
                time.sleep(seconds)
            self._waited_s += time.monotonic() - started

        retry_while_disk_refuses(
            partial(file.write, line, durable=durable),
            self._directory.path,
            self._step,
            notify,
            wait=wait,
            stop_waiting=self._stop_waiting,
        )


def _remove_incomplete_line(path: Path) -> None:
    """Remove an incomplete last line, left by a process that died while writing it."""
    try:
        copy_if_hard_linked(path)
        descriptor = open_descriptor(path, os.O_RDWR)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
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
