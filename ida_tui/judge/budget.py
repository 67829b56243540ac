"""Paid judge calls: cost is reserved and recorded before each call, and settled with its reply.

    budget = Budget(limit=2.0, spent=costs.spent, record=costs)
    reply = await budget.run(max_cost, call)   # `call` returns a `PaidReply`

A call that was sent ends even if its caller is canceled, because its reply will be charged.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from ida_tui.judge.errors import JudgeUnavailable

T = TypeVar("T")
DISK_RETRY_S = 0.5
"""Seconds between two attempts to record a call while the disk is full."""


class BudgetExceeded(JudgeUnavailable):
    """The next call could exceed the budget."""


class CostRecord(Protocol):
    """A record of paid calls that survives the process; see `ida_tui.runs.store.judge_costs`."""

    def start(self, max_cost: float) -> str:
        """Record a call before it is sent; returns its id. Raises `OSError`."""

    def finish(self, call: str, max_cost: float, cost: float | None) -> None:
        """Record the cost of a call; None if unknown. `call` is empty for an unrecorded call."""

    def abandon(self, call: str) -> None:
        """Note that a call ended without a reply that reports its cost."""


@dataclass(frozen=True, slots=True)
class PaidReply(Generic[T]):
    """The result of a paid call, and what it cost."""

    value: T
    cost: float | None
    """US dollars; None if the reply does not say."""
    status: Literal["charged", "failed", "unanswered"] = "charged"
    """Failed: the call was not charged. Unanswered: it may be charged, but no reply arrived."""


@dataclass(slots=True)
class _Charge:
    """A call under way: its reserved cost, and its id in the record."""

    reserved: float
    call: str


class Budget:
    """Judge spending of one run in US dollars. Use it on one event loop.

    While a limit is set, the first call is made alone: it shows what a call costs. Afterwards every call
    reserves the largest cost seen, so that calls in flight cannot exceed the limit together.

    Args:
        limit: the maximum to spend; None is unlimited.
        spent: what the run has spent before, at most.
        record: records every paid call; None keeps no record.
    """

    def __init__(
        self, limit: float | None = None, spent: float = 0.0, record: CostRecord | None = None
    ) -> None:
        self.limit = limit
        self.spent = spent
        self._record = record
        self._reserved = 0.0
        self._largest_cost: float | None = None
        self._first_call = asyncio.Lock()
        self._open_calls: dict[asyncio.Task[Any], _Charge] = {}

    async def run(
        self, max_cost: float | None, call: Callable[[], Coroutine[Any, Any, PaidReply[T]]]
    ) -> T:
        """Make one call; canceling this does not cancel a call that was sent.

        Args:
            max_cost: the maximum cost of the call; None if it is known only afterwards.
            call: sends the request and waits for the reply.

        Raises:
            BudgetExceeded: together with the calls in flight, it could exceed the budget.
            JudgeUnavailable: its cost cannot be recorded.
        """
        first = await self._enter_first_call(max_cost)
        try:
            charge = await self._reserve(max_cost)
            task = asyncio.create_task(self._settle(charge, call()))
            self._open_calls[task] = charge
            task.add_done_callback(self._close)
            return await asyncio.shield(task)
        finally:
            if first:
                self._first_call.release()

    async def finish_open_calls(self, timeout_s: float) -> None:
        """Wait for the replies of canceled callers; after the timeout, or if they are free, cancel them."""
        if paid := {task for task, charge in self._open_calls.items() if charge.reserved}:
            await asyncio.wait(paid, timeout=timeout_s)
        remaining = set(self._open_calls)
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    @property
    def open_calls(self) -> set[asyncio.Task[Any]]:
        """The tasks of the calls under way."""
        return set(self._open_calls)

    async def _enter_first_call(self, max_cost: float | None) -> bool:
        """Wait until the cost of one call is known; returns whether this is the call that shows it."""
        if self.limit is None or max_cost == 0 or self._largest_cost is not None:
            return False
        await self._first_call.acquire()
        if self._largest_cost is None:
            return True
        self._first_call.release()
        return False

    async def _reserve(self, max_cost: float | None) -> _Charge:
        # The judges of a panel share a budget: a free one reserves nothing, whatever the others cost.
        reserved = 0.0 if max_cost == 0 else max(max_cost or 0.0, self._largest_cost or 0.0)
        if self.limit is not None and self.spent + self._reserved + reserved > self.limit:
            raise BudgetExceeded(
                f"the next call could exceed the judge budget of ${self.limit:g} "
                f"(${self.spent:.4f} spent)",
                "resume with a larger budget: budget=DOLLARS",
            )
        self._reserved += reserved
        try:
            return _Charge(reserved, await self._record_start(reserved))
        except BaseException:
            self._reserved -= reserved
            raise

    async def _record_start(self, reserved: float) -> str:
        while self._record is not None and reserved:
            try:
                return self._record.start(reserved)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise JudgeUnavailable(
                        f"could not record the cost of a judge call: {error.strerror or error}",
                        "make the run directory writable, then resume",
                    ) from None
            await asyncio.sleep(DISK_RETRY_S)
        return ""

    async def _settle(self, charge: _Charge, call: Coroutine[Any, Any, PaidReply[T]]) -> T:
        reply = await call
        if reply.status != "unanswered":
            cost = charge.reserved if reply.cost is None else reply.cost
            if reply.status == "charged":
                self._largest_cost = max(self._largest_cost or 0.0, cost)
            self.spent += cost
            self._reserved -= charge.reserved
            if self._record is not None and (charge.call or reply.cost != 0):
                with suppress(OSError):  # without this line, the call counts with an estimate
                    self._record.finish(charge.call, charge.reserved, reply.cost)
            charge.reserved, charge.call = 0.0, ""
        return reply.value

    def _close(self, task: asyncio.Task[Any]) -> None:
        """Count a call whose cost is unknown with its maximum."""
        charge = self._open_calls.pop(task)
        self._reserved -= charge.reserved
        self.spent += charge.reserved
        if self._record is not None and charge.call:
            self._record.abandon(charge.call)
        if not task.cancelled():
            task.exception()  # retrieved here if the caller was canceled
