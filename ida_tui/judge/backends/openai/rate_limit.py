"""How many calls may be open at once: halved when the judge is overloaded, grown back while it copes.

Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989). A server that names
a time (Retry-After) is left alone until then by all calls, not only by the one that was told.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Limiter:
    """Slots for calls, on one event loop.

    Args:
        most: slots while all is well.
        clock: seconds, monotonic.
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
        """Calls that may be open now."""
        return max(1, int(self._allowed))

    @property
    def held_s(self) -> float:
        """Seconds for which no call begins."""
        return max(0.0, self._held_until - self._clock())

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a free slot and keep it inside the block; gives the moment it was got."""
        while (held := self.held_s) or self._open >= self.slots:
            if held:
                await asyncio.sleep(held)
            else:
                await self._change()
        self._open += 1
        try:
            yield self._clock()
        finally:
            self._open -= 1
            self._wake()

    def worked(self) -> None:
        """A call was answered: one more slot after as many of these as there are slots."""
        if self._allowed < self.most:
            self._allowed = min(float(self.most), self._allowed + 1 / self._allowed)
            self._wake()

    def overloaded(self, began: float) -> bool:
        """A call that began at `began` was turned away; returns whether the slots were halved.

        Calls that were open together are turned away together: they halve once.
        """
        if began <= self._cut_at:
            return False
        self._cut_at = self._clock()
        before = self.slots
        self._allowed = max(1.0, self._allowed / 2)
        return self.slots < before

    def hold(self, seconds: float) -> None:
        """Begin no call for so long."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def _change(self) -> None:
        """Wait until a slot may have become free."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        # All of them look again, in the order in which they came; there are at most a few hundred.
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
