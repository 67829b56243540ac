"""Verdicts of one step: requested as completions or their groups finish, collected together at the end.

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
        group_size: rows per group, for a judge that scores a group in one call.
    """

    def __init__(
        self,
        service: JudgeService,
        clock: Callable[[], float] = time.monotonic,
        group_size: int = 1,
    ) -> None:
        self._service = service
        self._clock = clock
        self._group_size = group_size
        self._waiting: dict[int, JudgeRequest] = {}
        """Requests of groups that are not complete yet, by row; only for a judge that scores groups."""
        self._entries: dict[int, _VerdictSlot] = {}
        self._stopwatch = _Stopwatch(clock)
        self._exposed_s = 0.0

    def submit(self, row: int, request: JudgeRequest) -> None:
        """Request the verdict of a row; does nothing if the same request is already pending.

        A judge that scores groups gets the request when all rows of its group have one.
        """
        entry = self._entries.get(row)
        if entry is not None and entry.request == request:
            return
        if self._service.scores_groups:
            self._submit_in_group(row, request)
            return
        if entry is not None:
            entry.future.cancel()
        self._add([row], [request], [self._service.submit(request)])

    def _submit_in_group(self, row: int, request: JudgeRequest) -> None:
        """Let a row wait for the others of its group; the last one submits all, also those judged before."""
        start = row - row % self._group_size
        rows = range(start, start + self._group_size)
        for other in rows:
            entry = self._entries.pop(other, None)
            if entry is not None:
                entry.future.cancel()
                self._waiting[other] = entry.request
        self._waiting[row] = request
        if all(other in self._waiting for other in rows):
            requests = [self._waiting.pop(other) for other in rows]
            self._add(rows, requests, self._service.submit_group(requests))

    def _add(
        self,
        rows: Sequence[int],
        requests: Sequence[JudgeRequest],
        futures: Sequence[Future[Verdict]],
    ) -> None:
        for row, request, future in zip(rows, requests, futures, strict=True):
            self._stopwatch.request_started()
            future.add_done_callback(self._stopwatch.request_finished)
            self._entries[row] = _VerdictSlot(request, future)

    def discard(self) -> None:
        """Cancel pending calls and discard the verdicts of the step."""
        for entry in self._entries.values():
            entry.future.cancel()
        self._entries.clear()
        self._waiting.clear()
        self._stopwatch = _Stopwatch(self._clock)
        self._exposed_s = 0.0
        self._service.take_traffic()  # that of an evaluation between two steps

    def switch_service(self, service: JudgeService, *, same_judge: bool) -> None:
        """Continue with another service, keeping the verdicts only if the judge is the same.

        Verdicts of different judges are never mixed in a group.
        """
        self._service = service
        self._waiting.clear()
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
            group_size: rows per group; the same model and the same judges of a panel must judge all of them.
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
        self._group_size = group_size
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
            traffic=self._service.take_traffic(),
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
        self._align_groups(row_count, group_size)
        # Twice: at the change, an older model's reply may arrive last and look like the current one.
        for _ in range(2):
            current = self._service.served_model
            stale = [
                row
                for group in self._mixed_groups(row_count, group_size)
                for row in group
                if self._served_model(row) not in (None, current)
            ]
            requests = {row: self._entries.pop(row).request for row in stale}
            for row, request in requests.items():
                self.submit(row, replace(request, bypass_cache=True))
            if not stale:
                break
            self._wait_for_verdicts(should_stop, on_progress)
            self._align_groups(row_count, group_size)
        for group in self._mixed_groups(row_count, group_size):
            served = Counter(name for row in group if (name := self._served_model(row)) is not None)
            (majority, _), *_ = served.most_common(1)
            for row in group:
                if self._served_model(row) not in (None, majority):
                    self._entries[row].verdict = _as_failed(self._verdict(row), MIXED_GROUP_FAILURE)

    def _align_groups(self, row_count: int, group_size: int) -> None:
        """Have the verdicts of each group come from the same judges of a panel."""
        for start in range(0, row_count, group_size):
            rows = range(start, min(start + group_size, row_count))
            verdicts = [self._verdict(row) for row in rows]
            if any(verdict.members for verdict in verdicts):
                for row, verdict in zip(rows, self._service.align_group(verdicts), strict=True):
                    self._entries[row].verdict = verdict

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
                "correct the reward function or the formula; try it with: ida-tui reward check PROFILE",
            )
        raise JudgeUnavailable(
            f"{failed} of {total} verdicts failed {limit}",
            "test the judge with ida-tui judge check"
            + (", or raise judge.max_unscored" if failed < total else ""),
        )


def _as_failed(verdict: Verdict, failure: str) -> Verdict:
    """A failed verdict with the latency, cost and token counts of `verdict`."""
    return replace(
        verdict,
        scores={},
        reason="",
        failure=failure,
        cached=False,
        reward=None,
        spread={},
        samples=(),
    )
