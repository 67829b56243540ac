"""Delivery of messages about a run: each channel on a thread of its own, with retries and back-off.

Nothing here delays or fails a run: records are queued, and a message that is not delivered is a warning.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ida_tui.config.sections.notify import NotifyEvent
from ida_tui.errors import short_text
from ida_tui.events import types as ev
from ida_tui.events.notifications.channels import Channel, DeliveryError
from ida_tui.events.notifications.messages import Message, MessageWriter
from ida_tui.util.safe_files import open_appended
from ida_tui.util.text import one_line

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each further try of a message."""
MAX_WAITING = 100
"""Most messages that wait for a channel; further ones are not sent."""
END_TIMEOUT_S = 10.0
"""How long the process of a finished run lives on to deliver what waits; its run directory is complete."""
END_TIMEOUT_STOPPED_S = 3.0
"""The same for a run that did not finish."""
_POLL_S = 0.05


@dataclass(slots=True)
class _Worker:
    """One channel with its thread and the messages that wait for it, the one being sent among them."""

    channel: Channel
    waiting: deque[Message] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    thread: threading.Thread | None = None
    has_warned: bool = False


class Notifier:
    """The messages of one run; subscribe this object to the run's event log, and close it after the end.

    Args:
        channels: receivers of the messages.
        events: what is reported.
        writer: turns records into messages.
        notify: receives one warning for each channel that fails; called on the threads of the channels.
        undelivered: file that lists the messages that were not delivered.
        redact: removes secrets from texts.
        stop_requested: whether the process is asked to stop.
        wait: waits for so many seconds, or until the event is set.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        events: Sequence[NotifyEvent],
        writer: MessageWriter,
        notify: Callable[[ev.Noticed], object],
        *,
        undelivered: Path,
        redact: Callable[[str], str] = lambda text: text,
        stop_requested: Callable[[], bool] = lambda: False,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._events = frozenset(events)
        self._writer = writer
        self._notify = notify
        self._undelivered = undelivered
        self._redact = redact
        self._stop_requested = stop_requested
        self._wait = wait
        self._workers = [_Worker(channel) for channel in channels]
        self._closing = threading.Event()
        self._ended: ev.RunEnded | None = None
        self._file_lock = threading.Lock()

    def put(self, record: ev.Record) -> None:
        """Queue the messages of a record; never blocks the thread that emits the record."""
        if not self._workers:
            return
        if isinstance(record.event, ev.RunEnded):
            self._ended = record.event
        for message in self._writer.messages(record):
            if message.event in self._events:
                for worker in self._workers:
                    self._queue(worker, message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        finished = self._ended is not None and self._ended.status == "done"
        self.close(END_TIMEOUT_S if finished else END_TIMEOUT_STOPPED_S)

    def close(self, limit_s: float) -> None:
        """Wait until everything is delivered, at most so many seconds, or until a stop is requested anew."""
        was_stopping, deadline = self._stop_requested(), time.monotonic() + limit_s
        while any(worker.waiting for worker in self._workers) and time.monotonic() < deadline:
            if self._stop_requested() and not was_stopping:
                break
            self._closing.wait(_POLL_S)
        self._closing.set()
        for worker in self._workers:
            with worker.changed:
                left = list(worker.waiting)
                worker.waiting.clear()
                worker.changed.notify()
            for message in left:
                self._note_undelivered(worker, message, "the run had ended")

    def _queue(self, worker: _Worker, message: Message) -> None:
        with worker.changed:
            if len(worker.waiting) < MAX_WAITING:
                worker.waiting.append(message)
                worker.changed.notify()
                if worker.thread is None:
                    name = f"ida-notify-{worker.channel.name}"
                    worker.thread = threading.Thread(
                        target=self._run_worker, args=(worker,), name=name, daemon=True
                    )
                    worker.thread.start()
                return
        self._note_undelivered(worker, message, f"{MAX_WAITING} earlier messages wait")

    def _run_worker(self, worker: _Worker) -> None:
        """Thread of one channel: delivers one message after another."""
        while True:
            with worker.changed:
                worker.changed.wait_for(lambda: worker.waiting or self._closing.is_set())
                if self._closing.is_set():
                    return
                message = worker.waiting[0]
            reason = self._deliver(worker, message)
            with worker.changed:
                if self._closing.is_set() or not worker.waiting:
                    return
                worker.waiting.popleft()
            if reason:
                self._note_undelivered(worker, message, reason)
                self._warn(worker, message, reason)

    def _deliver(self, worker: _Worker, message: Message) -> str:
        """Send a message, with retries; returns why it was not delivered, or an empty text."""
        reason = ""
        for delay in (0.0, *RETRY_DELAYS_S):
            if delay:
                self._wait(self._closing, delay)
            if self._closing.is_set():
                return reason
            try:
                worker.channel.send(message)
            except DeliveryError as error:
                reason = one_line(self._redact(str(error)))
                if not error.may_retry:
                    return reason
            except Exception as error:
                # No error of a channel may end its thread without a word.
                return one_line(self._redact(f"{type(error).__name__}: {short_text(error)}"))
            else:
                return ""
        return reason

    def _warn(self, worker: _Worker, message: Message, reason: str) -> None:
        if worker.has_warned or self._ended is not None:
            return
        worker.has_warned = True
        text = (
            f"notify.{worker.channel.name}: a message ({message.event}) was not delivered: {reason};"
            f" later ones are tried again, and logs/{self._undelivered.name} lists those that fail"
        )
        # If the disk rejects this line, the run itself reports the disk error.
        with contextlib.suppress(OSError, ValueError):
            self._notify(ev.Noticed(level="warning", source="notify", text=text))

    def _note_undelivered(self, worker: _Worker, message: Message, reason: str) -> None:
        line = f"{ev.current_timestamp()} {worker.channel.name} {message.event}: {reason}: {message.text}"
        with (
            contextlib.suppress(OSError),
            self._file_lock,
            open_appended(self._undelivered) as file,
        ):
            file.write(one_line(self._redact(line.replace("\n", " · "))).encode() + b"\n")
