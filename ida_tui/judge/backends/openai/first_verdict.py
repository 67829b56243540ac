"""Retries of unusable replies at an endpoint that has not given a verdict yet.

A server that never gives one must not be asked twice for every completion. So one request at a time is
repeated, and two in all, while the others wait for what comes of it. After the first verdict, every request
may be repeated.
"""

from __future__ import annotations

import asyncio

MAX_RETRIES = 2
"""Retries of unusable replies before the first verdict, over all requests."""


class FirstVerdict:
    """Whether an endpoint has given a verdict. Use it on one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder: object = None
        self._retries = 0
        self._given = False

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no verdict came, and none is expected any more."""
        return not self._given and self._retries >= MAX_RETRIES

    def note(self) -> None:
        """Record a verdict."""
        self._given = True

    async def may_retry(self, request: object) -> bool:
        """Wait until the request may be repeated; returns whether it may be repeated at all.

        `release` must follow when the request has ended.
        """
        if self._given:
            return True
        if self._holder is not request:
            await self._lock.acquire()
            self._holder = request
        if self._given:
            return True
        self._retries += 1
        return self._retries <= MAX_RETRIES

    def release(self, request: object) -> None:
        """Let the next request go on."""
        if self._holder is request:
            self._holder = None
            self._lock.release()
