"""Concurrency limit for judge calls, adapted to overload.

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


class Limiter:
    """Limits the number of concurrent calls. Use it on one event loop.

    Args:
        most: the number of slots without overload.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._allowed = float(most)
        self._open = 0
        self._cut_at = float("-inf")
        self._held_until = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def slots(self) -> int:
        """The current limit of concurrent calls, at least 1."""
        return max(1, int(self._allowed))

    @property
    def held_s(self) -> float:
        """Seconds until calls may start again; 0 if they may start now."""
        return max(0.0, self._held_until - self._clock())

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a free slot and occupy it inside the block; yields the start time."""
        while (delay := self.held_s) or self._open >= self.slots:
            if delay:
                await asyncio.sleep(delay)
            else:
                await self._change()
        self._open += 1
        try:
            yield self._clock()
        finally:
            self._open -= 1
            self._wake()

    def worked(self) -> None:
        """Report a successful call: the limit grows by one after as many of them as there are slots."""
        if self._allowed < self.most:
            self._allowed = min(float(self.most), self._allowed + 1 / self._allowed)
            self._wake()

    def overloaded(self, began: float) -> bool:
        """Report a call, started at `began`, that failed by overload; returns whether the limit fell.

        Calls that were open at the same time halve the limit only once.
        """
        if began <= self._cut_at:
            return False
        self._cut_at = self._clock()
        before = self.slots
        self._allowed = max(1.0, self._allowed / 2)
        return self.slots < before

    def hold(self, seconds: float) -> None:
        """Start no call for `seconds`."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def _change(self) -> None:
        """Wait until a slot may be free."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        # All waiters check again in order of arrival; there are at most a few hundred.
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
