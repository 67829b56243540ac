"""Concurrency limit for judge calls, adapted to overload, with the times of the calls.

The limit is halved when the server is overloaded and grows back with successful calls: additive
increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989). A Retry-After header delays all
calls, not only the one that received it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ida_tui.events.values import JudgeCall

MAX_RECORDED_CALLS = 20_000
"""Number of calls whose times are stored until somebody takes them."""


@dataclass(slots=True)
class OpenCall:
    """A call that occupies a slot."""

    started_at: float
    """When it got the slot, on the limiter's clock."""
    input_tokens: int | None = None
    """Set by whoever reads the reply; None if unknown."""
    output_tokens: int | None = None


class Limiter:
    """Limits the number of concurrent calls. Use it on one event loop.

    Args:
        max_slots: the number of slots without overload.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, max_slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_slots = max_slots
        self._clock = clock
        self._slot_limit = float(max_slots)
        self._active_calls = 0
        self._halved_at = float("-inf")
        self._paused_until = float("-inf")
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._ended: deque[JudgeCall] = deque(maxlen=MAX_RECORDED_CALLS)

    @property
    def slots(self) -> int:
        """The current limit of concurrent calls, at least 1."""
        return max(1, int(self._slot_limit))

    @property
    def pause_remaining_s(self) -> float:
        """Seconds until calls may start again; 0 if they may start now."""
        return max(0.0, self._paused_until - self._clock())

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[OpenCall]:
        """Wait for a free slot and occupy it inside the block."""
        requested_at = self._clock()
        while (delay := self.pause_remaining_s) or self._active_calls >= self.slots:
            if delay:
                await asyncio.sleep(delay)
            else:
                await self._wait_for_slot()
        self._active_calls += 1
        call = OpenCall(self._clock())
        try:
            yield call
        finally:
            self._active_calls -= 1
            self._wake_waiters()
        # Not after an error: a canceled call shows no time of the judge.
        self._ended.append(
            JudgeCall(
                requested_at,
                call.started_at,
                self._clock(),
                call.input_tokens,
                call.output_tokens,
            )
        )

    def take_calls(self) -> list[JudgeCall]:
        """The calls that ended since the last time, on the limiter's clock; from any thread."""
        calls = []
        while self._ended:
            calls.append(self._ended.popleft())
        return calls

    def on_success(self) -> None:
        """Report a successful call: the limit grows by one after as many of them as there are slots."""
        if self._slot_limit < self.max_slots:
            self._slot_limit = min(float(self.max_slots), self._slot_limit + 1 / self._slot_limit)
            self._wake_waiters()

    def on_overload(self, started_at: float) -> bool:
        """Report a call, started at `started_at`, that failed by overload; returns whether the limit fell.

        Calls that were open at the same time halve the limit only once.
        """
        if started_at <= self._halved_at:
            return False
        self._halved_at = self._clock()
        before = self.slots
        self._slot_limit = max(1.0, self._slot_limit / 2)
        return self.slots < before

    def hold_for(self, seconds: float) -> None:
        """Start no call for `seconds`."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def _wait_for_slot(self) -> None:
        """Wait until a slot may be free."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake_waiters(self) -> None:
        # All waiters check again in order of arrival; there are at most a few hundred.
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
