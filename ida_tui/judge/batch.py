"""Verdicts of one step: requested as completions finish, collected together at the end.

    batch = VerdictBatch(service)
    batch.submit(row, request)            # as soon as a completion is finished
    verdicts, stats = batch.collect(requests, group_size=8)

All verdicts of a group come from the same model of the server. Verdicts survive a `JudgeUnavailable`:
after it is fixed, for example with another key, `collect` requests only the missing ones.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from ida_tui.judge.collect import OnVerdictProgress, collect, received_verdict
from ida_tui.judge.errors import FunctionsUnavailable, JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict

MAX_UNSCORED_STEPS = 3
"""Consecutive steps without a scored verdict that pause a run regardless of its `max_unscored`."""
MIXED_GROUP_FAILURE = "a different model of the server judged the rest of its group"


class _Stopwatch:
    """Measures the time during which at least one request is pending. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pending = 0
        self._busy_since = 0.0
        self._first_request_at: float | None = None
        self._seconds = 0.0
        self.first_s: float | None = None
        """Seconds from the first request to the first verdict."""

    def request_started(self) -> None:
        """Count a request that was submitted."""
        with self._lock:
            time_s = self._clock()
            if self._first_request_at is None:
                self._first_request_at = time_s
            if self._pending == 0:
                self._busy_since = time_s
            self._pending += 1

    def request_finished(self, future: Future[Verdict]) -> None:
        """Count a request that finished or was canceled."""
        with self._lock:
            time_s = self._clock()
            self._pending -= 1
            if self._pending == 0:
                self._seconds += time_s - self._busy_since
            if (
                self.first_s is None
                and self._first_request_at is not None
                and not future.cancelled()
            ):
                self.first_s = time_s - self._first_request_at

    @property
    def seconds(self) -> float:
        """Seconds with at least one pending request, so far."""
        with self._lock:
            running = self._clock() - self._busy_since if self._pending else 0.0
            return self._seconds + running


@dataclass(slots=True)
class _VerdictSlot:
    """One completion: its request, the pending call, and its verdict once it is known."""

    request: JudgeRequest
    future: Future[Verdict]
    verdict: Verdict | None = None


class VerdictBatch:
    """The verdict requests of one step, by completion row. Use it from one thread.

    Args:
        service: the service of the judge.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, service: JudgeService, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._entries: dict[int, _VerdictSlot] = {}
        self._stopwatch = _Stopwatch(clock)
        self._exposed_s = 0.0

    def submit(self, row: int, request: JudgeRequest) -> None:
        """Request the verdict of a row; does nothing if the same request is already pending."""
        entry = self._entries.get(row)
        if entry is not None:
            if entry.request == request:
                return
            entry.future.cancel()
        self._stopwatch.request_started()
        future = self._service.submit(request)
        future.add_done_callback(self._stopwatch.request_finished)
        self._entries[row] = _VerdictSlot(request, future)

    def discard(self) -> None:
        """Cancel pending calls and discard the verdicts of the step."""
        for entry in self._entries.values():
            entry.future.cancel()
        self._entries.clear()
        self._stopwatch = _Stopwatch(self._clock)
        self._exposed_s = 0.0

    def switch_service(self, service: JudgeService, *, same_judge: bool) -> None:
        """Continue with another service, keeping the verdicts only if the judge is the same.

        Verdicts of different judges are never mixed in a group.
        """
        self._service = service
        for row, entry in list(self._entries.items()):
            entry.future.cancel()
            if not same_judge or entry.verdict is None:
                del self._entries[row]

    def collect(
        self,
        requests: Sequence[JudgeRequest],
        *,
        group_size: int,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: OnVerdictProgress = lambda received, total: None,
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all rows, requesting those that were not requested yet.

        Args:
            requests: one request per row.
            group_size: rows per group; the same model must judge all of them.
            should_stop: polled while calls are pending.
            on_progress: called while verdicts arrive.

        Returns:
            The verdicts in the order of the rows, and the statistics of the step.

        Raises:
            JudgeInterrupted: `should_stop` returned true; pending calls are canceled.
            JudgeUnavailable: the judge cannot be used; verdicts already received are saved for the
                next call.
        """
        waiting_since = self._clock()
        try:
            for row, request in enumerate(requests):
                self.submit(row, request)
            self._wait_for_verdicts(should_stop, on_progress)
            self._rejudge_mixed_groups(len(requests), group_size, should_stop, on_progress)
        finally:
            self._exposed_s += self._clock() - waiting_since
        verdicts = [self._verdict(row) for row in range(len(requests))]
        declined = Counter(
            request.kind
            for request, verdict in zip(requests, verdicts, strict=True)
            if verdict.declined
        )
        stats = BatchStats.from_verdicts(
            verdicts,
            self._stopwatch.seconds,
            exposed_s=self._exposed_s,
            first_s=self._stopwatch.first_s,
            slots=self._service.slots,
            declined=dict(declined),
        )
        return verdicts, stats

    def retry_failed(self) -> None:
        """Remove the failed verdicts, so that the next `collect` requests them again."""
        for row, entry in list(self._entries.items()):
            if entry.verdict is not None and entry.verdict.failure is not None:
                del self._entries[row]

    def _verdict(self, row: int) -> Verdict:
        verdict = self._entries[row].verdict
        assert verdict is not None
        return verdict

    def _wait_for_verdicts(
        self, should_stop: Callable[[], bool], on_progress: OnVerdictProgress
    ) -> None:
        """Wait until every row has a verdict."""
        open_entries = [entry for entry in self._entries.values() if entry.verdict is None]
        total = len(self._entries)
        known = total - len(open_entries)
        try:
            collect(
                [entry.future for entry in open_entries],
                should_stop=should_stop,
                on_progress=lambda received, _: on_progress(known + received, total),
            )
        finally:
            # After an error too: the next call requests only the missing verdicts.
            for entry in open_entries:
                entry.verdict = received_verdict(entry.future)
            self._entries = {r: e for r, e in self._entries.items() if e.verdict is not None}

    def _rejudge_mixed_groups(
        self,
        row_count: int,
        group_size: int,
        should_stop: Callable[[], bool],
        on_progress: OnVerdictProgress,
    ) -> None:
        """Request verdicts of an older model of the server again, and fail those that still differ."""
        # Twice: at the change, an older model's reply may arrive last and look like the current one.
        for _ in range(2):
            current = self._service.served_model
            stale = [
                row
                for group in self._mixed_groups(row_count, group_size)
                for row in group
                if self._served_model(row) not in (None, current)
            ]
            for row in stale:
                entry = self._entries.pop(row)
                self.submit(row, replace(entry.request, bypass_cache=True))
            if stale:
                self._wait_for_verdicts(should_stop, on_progress)
        for group in self._mixed_groups(row_count, group_size):
            served = Counter(name for row in group if (name := self._served_model(row)) is not None)
            (majority, _), *_ = served.most_common(1)
            for row in group:
                if self._served_model(row) not in (None, majority):
                    self._entries[row].verdict = _as_failed(self._verdict(row), MIXED_GROUP_FAILURE)

    def _mixed_groups(self, row_count: int, group_size: int) -> list[range]:
        """The groups with verdicts from more than one model of the server."""
        groups = [range(start, start + group_size) for start in range(0, row_count, group_size)]
        return [g for g in groups if len({self._served_model(row) for row in g} - {None}) > 1]

    def _served_model(self, row: int) -> str | None:
        """The model that scored a row; None if unknown or if the verdict failed."""
        verdict = self._verdict(row)
        return verdict.served_model if verdict.has_scores else None


class VerdictCoverage:
    """Decides whether a step has enough scored completions to train on.

    Args:
        max_unscored: the largest share of failed verdicts, 0 to 1.
    """

    def __init__(self, max_unscored: float) -> None:
        self._max_unscored = max_unscored
        self._empty_steps = 0

    def check(self, verdicts: Sequence[Verdict], *, failed_functions: int = 0) -> None:
        """Check the verdicts of one step.

        Args:
            verdicts: the verdicts, with computed scores.
            failed_functions: number of them without a score that a function computes.

        Raises:
            JudgeUnavailable: too many verdicts failed, or all failed for the third step in a row.
            FunctionsUnavailable: the same, mostly because reward functions failed.
        """
        failures = [v.failure for v in verdicts if v.failure is not None]
        failed, total = len(failures), len(verdicts)
        self._empty_steps = self._empty_steps + 1 if failed == total else 0
        if failed <= self._max_unscored * total and self._empty_steps < MAX_UNSCORED_STEPS:
            return
        self._empty_steps = 0
        most_common, _ = Counter(failures).most_common(1)[0]
        limit = f"(limit {self._max_unscored:.0%}); most common failure: {most_common}"
        if 2 * failed_functions >= failed:
            raise FunctionsUnavailable(
                f"{failed} of {total} completions have no reward {limit}",
                "correct the reward function; try it with: ida-tui reward check PROFILE",
            )
        raise JudgeUnavailable(
            f"{failed} of {total} verdicts failed {limit}",
            "test the judge with ida-tui judge check, or raise judge.max_unscored",
        )


def _as_failed(verdict: Verdict, failure: str) -> Verdict:
    """A failed verdict with the latency, cost and token counts of `verdict`."""
    return Verdict.failed(
        failure,
        verdict.judge,
        latency_s=verdict.latency_s,
        cost=verdict.cost,
        retries=verdict.retries,
        calls=verdict.calls,
        served_model=verdict.served_model,
        input_tokens=verdict.input_tokens,
        output_tokens=verdict.output_tokens,
    )
