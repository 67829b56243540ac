"""Event dispatcher of a run: sends the events to every sink, each on a separate thread.

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
from ida_tui.events.sinks.base import RunInfo, Sink

MAX_QUEUED_EVENTS = 5_000
"""Maximum number of events in the queue of a sink."""
CALL_TIMEOUT_S = 120.0
"""Seconds after which a call to a sink counts as hung."""
FORWARDED_EVENTS = (ev.StepFinished, ev.EvaluationFinished, ev.AlertRaised)


@dataclass(slots=True)
class _SinkWorker:
    """One sink with its thread and its queue of events; None in the queue marks the end."""

    sink: Sink
    thread: threading.Thread | None = None
    event_queue: queue.SimpleQueue[ev.Event | None] = field(default_factory=queue.SimpleQueue)
    busy_since: float | None = None
    disabled_reason: str = ""
    """Why the sink is disabled; empty while it is enabled."""
    has_warned: bool = False
    final_message: str = ""


class SinkDispatcher:
    """The sinks of one run; subscribe this object to the run's event log.

    Args:
        sinks: destinations of the metrics.
        run: the run.
        notify: receives notices for the log; called on the threads of the sinks.
        call_timeout_s: maximum seconds for one call to a sink.
        max_queued: maximum number of events in the queue of a sink.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        run: RunInfo,
        notify: Callable[[ev.Noticed], object],
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        max_queued: int = MAX_QUEUED_EVENTS,
    ) -> None:
        self._run = run
        self._notify = notify
        self._call_timeout_s = call_timeout_s
        self._max_queued = max_queued
        self._workers = [_SinkWorker(sink) for sink in sinks]
        self._lock = threading.Lock()
        self._has_ended = False

    @property
    def _is_started(self) -> bool:
        return any(worker.thread is not None for worker in self._workers)

    def _start_workers(self) -> None:
        for worker in self._workers:
            name = f"ida-{worker.sink.name}"
            worker.thread = threading.Thread(
                target=self._run_worker, args=(worker,), name=name, daemon=True
            )
            worker.thread.start()

    def put(self, record: ev.Record) -> None:
        """Queue a record for the sinks; never blocks, because it runs on the thread that emits the record.

        The sinks start when the model is loaded, so a run that fails earlier leaves no trace in them.
        """
        if isinstance(record.event, ev.RunStarted) and not self._is_started:
            self._start_workers()
        if not isinstance(record.event, FORWARDED_EVENTS):
            return
        for worker in self._workers:
            if worker.disabled_reason:
                continue
            if worker.event_queue.qsize() >= self._max_queued:
                worker.disabled_reason = f"{self._max_queued:,} events are waiting in its queue"
            else:
                worker.event_queue.put(record.event)

    def disable_hung_sinks(self) -> None:
        """Disable sinks that hang, with a warning; call this regularly from a thread that may emit events."""
        for worker in self._workers:
            since = worker.busy_since
            if (
                not worker.disabled_reason
                and since is not None
                and time.monotonic() - since > self._call_timeout_s
            ):
                worker.disabled_reason = f"no response for {self._call_timeout_s:.0f} s"
            if worker.disabled_reason:
                self._warn(worker)

    def end(self, ended: ev.RunEnded, limit_s: float) -> None:
        """Send the end of the run to the sinks and wait for them.

        Args:
            ended: the last event of the run.
            limit_s: maximum seconds for all sinks together; sinks that are not done by then are abandoned.
        """
        deadline = time.monotonic() + limit_s
        for worker in self._workers:
            worker.event_queue.put(ended)
            worker.event_queue.put(None)
        for worker in self._workers:
            if worker.thread is not None:
                worker.thread.join(max(0.0, deadline - time.monotonic()))
                if worker.thread.is_alive() and not worker.disabled_reason:
                    worker.disabled_reason = (
                        f"it did not finish within {limit_s:.0f} s after the end of the run"
                    )
            if worker.disabled_reason:
                self._warn(worker)
            elif worker.final_message:
                self._send_notice("info", worker, worker.final_message)
        self._has_ended = True

    def _run_worker(self, worker: _SinkWorker) -> None:
        """Thread of one sink: handles one event after another until the end or the first failure."""
        try:
            worker.busy_since = time.monotonic()
            text = worker.sink.start(self._run)
            worker.busy_since = None
            if text and not worker.disabled_reason:
                self._send_notice("info", worker, text)
            while (event := worker.event_queue.get()) is not None and not worker.disabled_reason:
                worker.busy_since = time.monotonic()
                self._deliver(worker, event)
                worker.busy_since = None
        except Exception as error:
            worker.disabled_reason = (
                worker.disabled_reason
                or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            )
            self._warn(worker)

    def _deliver(self, worker: _SinkWorker, event: ev.Event) -> None:
        match event:
            case ev.StepFinished():
                worker.sink.step(event)
            case ev.EvaluationFinished() | ev.AlertRaised():
                worker.sink.note(event)
            case ev.RunEnded():
                worker.final_message = worker.sink.end(event)

    def _warn(self, worker: _SinkWorker) -> None:
        with self._lock:
            if worker.has_warned:
                return
            worker.has_warned = True
        text = f"{worker.sink.name} is disabled: {worker.disabled_reason}; the run continues without it"
        self._send_notice("warning", worker, text)

    def _send_notice(self, level: ev.NoticeLevel, worker: _SinkWorker, text: str) -> None:
        if self._has_ended:
            return
        # If the disk rejects this line, the run itself reports the disk error.
        with contextlib.suppress(OSError):
            self._notify(ev.Noticed(level=level, source=worker.sink.name, text=text))
