"""Clock of a training run, which stands still while the run is paused or its process is suspended.

All durations of a run are differences of this clock: phases of a step, evaluations, the run itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

TICK_INTERVAL_S = 0.5
"""Time between two ticks of a watched clock."""
MIN_SUSPENSION_S = 3.0
"""Shortest time without a tick that can be a suspension; a busy machine can delay a tick by less."""
MAX_BUSY_SHARE = 0.1
"""Largest CPU time per second without ticks; a process that computes is not suspended."""


class RunClock:
    """Seconds since its creation, or its restart, in which the run could work. Thread-safe.

    Args:
        monotonic: a monotonic clock in seconds; it excludes the sleep of the machine.
        cpu: CPU seconds of this process.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._monotonic, self._cpu = monotonic, cpu
        self._lock = threading.Lock()
        self._started = monotonic()
        self._excluded = 0.0
        self._pauses = 0
        self._paused_at = 0.0
        self._last_tick: tuple[float, float] | None = None
        """Both clocks at the last tick; None while the clock is not watched."""
        self._suspended_s = 0.0

    def __call__(self) -> float:
        """Seconds of work so far."""
        with self._lock:
            now = self._paused_at if self._pauses else self._now()
            return now - self._started - self._excluded

    def restart(self) -> None:
        """Count from now on."""
        with self._lock:
            self._started, self._excluded = self._monotonic(), 0.0

    @property
    def excluded_s(self) -> float:
        """Seconds of pauses and suspensions so far."""
        with self._lock:
            now = self._now()
            return self._excluded + (now - self._paused_at if self._pauses else 0.0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside the block."""
        with self._lock:
            if not self._pauses:
                self._paused_at = self._now()
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._excluded += self._now() - self._paused_at

    def tick(self) -> float:
        """Say that the process runs; call this every `TICK_INTERVAL_S`.

        Returns:
            Seconds for which the process was suspended since the last call, such as by Ctrl-Z; usually 0.
        """
        with self._lock:
            now = self._now()
            self._last_tick = now, self._cpu()
            suspended, self._suspended_s = self._suspended_s, 0.0
            return suspended

    @contextlib.contextmanager
    def watch(self, on_suspended: Callable[[float], object]) -> Iterator[None]:
        """Inside the block, exclude the time in which the process is suspended.

        Args:
            on_suspended: called afterwards with the seconds, on a thread of the clock.
        """
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(TICK_INTERVAL_S):
                if seconds := self.tick():
                    on_suspended(seconds)

        thread = threading.Thread(target=run, name="ida-clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._last_tick = None

    def _now(self) -> float:
        """The monotonic time. A suspension since the last tick is excluded, whoever asks first."""
        now = self._monotonic()
        if self._last_tick is not None and now - self._last_tick[0] >= MIN_SUSPENSION_S:
            gap, cpu = now - self._last_tick[0], self._cpu()
            if cpu - self._last_tick[1] <= MAX_BUSY_SHARE * gap and not self._pauses:
                self._excluded += gap
                self._suspended_s += gap
            self._last_tick = now, cpu
        return now
