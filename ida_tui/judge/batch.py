"""Verdicts of one step: requested as completions finish, collected together at the end.

    docket = Docket(service)
    docket.ask(row, question)              # as soon as a completion is finished
    verdicts, stats = docket.settle(questions, group_size=8)

All verdicts of a group come from the same model of the server. Verdicts survive a `JudgeUnavailable`:
after it is fixed, for example with another key, `settle` requests only the missing ones.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from dataclasses import dataclass, replace

from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import POLL_S, JudgeInterrupted, JudgeService
from ida_tui.judge.verdict import BatchStats, Question, Verdict

UNSCORED_STEPS = 3
"""Consecutive steps without a scored verdict that pause a run regardless of its `max_unscored`."""
MIXED = "a different model of the server judged the rest of its group"

Progress = Callable[[int, int], None]
"""Called with the number of verdicts received and the total."""


class _Stopwatch:
    """Measures the time during which at least one request is pending. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._out = 0
        self._since = 0.0
        self._began: float | None = None
        self._seconds = 0.0
        self.first_s: float | None = None
        """Seconds from the first request to the first verdict."""

    def question(self) -> None:
        """Count a request that was submitted."""
        with self._lock:
            time_s = self._clock()
            if self._began is None:
                self._began = time_s
            if self._out == 0:
                self._since = time_s
            self._out += 1

    def answer(self, future: Future[Verdict]) -> None:
        """Count a request that finished or was canceled."""
        with self._lock:
            time_s = self._clock()
            self._out -= 1
            if self._out == 0:
                self._seconds += time_s - self._since
            if self.first_s is None and self._began is not None and not future.cancelled():
                self.first_s = time_s - self._began

    @property
    def seconds(self) -> float:
        """Seconds with at least one pending request, so far."""
        with self._lock:
            running = self._clock() - self._since if self._out else 0.0
            return self._seconds + running


@dataclass(slots=True)
class _Entry:
    """One completion: its request, the pending call, and its verdict once it is known."""

    question: Question
    future: Future[Verdict]
    verdict: Verdict | None = None


class Docket:
    """The verdict requests of one step, by completion row. Use it from one thread.

    Args:
        service: the service of the judge.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, service: JudgeService, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._entries: dict[int, _Entry] = {}
        self._watch = _Stopwatch(clock)
        self._exposed_s = 0.0

    def ask(self, row: int, question: Question) -> None:
        """Request the verdict of a row; does nothing if the same request is already pending."""
        entry = self._entries.get(row)
        if entry is not None:
            if entry.question == question:
                return
            entry.future.cancel()
        self._watch.question()
        future = self._service.submit(question)
        future.add_done_callback(self._watch.answer)
        self._entries[row] = _Entry(question, future)

    def give_up(self) -> None:
        """Cancel pending calls and discard the verdicts of the step."""
        for entry in self._entries.values():
            entry.future.cancel()
        self._entries.clear()
        self._watch = _Stopwatch(self._clock)
        self._exposed_s = 0.0

    def turn_to(self, service: JudgeService, *, same_judge: bool) -> None:
        """Continue with another service, keeping the verdicts only if the judge is the same.

        Verdicts of different judges are never mixed in a group.
        """
        self._service = service
        for row, entry in list(self._entries.items()):
            entry.future.cancel()
            if not same_judge or entry.verdict is None:
                del self._entries[row]

    def settle(
        self,
        questions: Sequence[Question],
        *,
        group_size: int,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress = lambda received, total: None,
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all rows, requesting those that were not requested yet.

        Args:
            questions: one request per row.
            group_size: rows per group; the same model must judge all of them.
            should_stop: polled while calls are pending.
            progress: called while verdicts arrive.

        Returns:
            The verdicts in the order of the rows, and the statistics of the step.

        Raises:
            JudgeInterrupted: `should_stop` returned true; pending calls are canceled.
            JudgeUnavailable: the judge cannot be used; verdicts already received are saved for the
                next call.
        """
        waiting_since = self._clock()
        try:
            for row, request in enumerate(questions):
                self.ask(row, request)
            self._await(should_stop, progress)
            self._unmix(len(questions), group_size, should_stop, progress)
        finally:
            self._exposed_s += self._clock() - waiting_since
        verdicts = [self._verdict(row) for row in range(len(questions))]
        declined = Counter(
            request.kind
            for request, verdict in zip(questions, verdicts, strict=True)
            if verdict.declined
        )
        stats = BatchStats.of(
            verdicts,
            self._watch.seconds,
            exposed_s=self._exposed_s,
            first_s=self._watch.first_s,
            slots=self._service.slots,
            declined=dict(declined),
        )
        return verdicts, stats

    def reopen_failed(self) -> None:
        """Remove the failed verdicts, so that the next `settle` requests them again."""
        for row, entry in list(self._entries.items()):
            if entry.verdict is not None and entry.verdict.failure is not None:
                del self._entries[row]

    def _verdict(self, row: int) -> Verdict:
        verdict = self._entries[row].verdict
        assert verdict is not None
        return verdict

    def _await(self, should_stop: Callable[[], bool], progress: Progress) -> None:
        """Wait until every row has a verdict."""
        open_entries = {e.future: e for e in self._entries.values() if e.verdict is None}
        pending = set(open_entries)
        total = len(self._entries)
        try:
            while True:
                done, pending = wait(pending, timeout=0, return_when=FIRST_EXCEPTION)
                for future in done:
                    open_entries[future].verdict = future.result()
                progress(total - len(pending), total)
                if not pending:
                    return
                if should_stop():
                    raise JudgeInterrupted
                wait(pending, timeout=POLL_S)
        except (JudgeUnavailable, JudgeInterrupted, CancelledError) as error:
            for future, entry in open_entries.items():
                # Keep the verdicts that arrived together with the error.
                if not future.cancel() and not future.cancelled() and future.exception() is None:
                    entry.verdict = future.result()
            self._drop_unanswered()
            if isinstance(error, CancelledError):
                raise JudgeInterrupted from None
            raise

    def _drop_unanswered(self) -> None:
        self._entries = {r: e for r, e in self._entries.items() if e.verdict is not None}

    def _unmix(
        self, rows: int, group_size: int, should_stop: Callable[[], bool], progress: Progress
    ) -> None:
        """Request verdicts of an older model of the server again, and fail those that still differ."""
        # Twice: at the change, an older model's reply may arrive last and look like the current one.
        for _ in range(2):
            current = self._service.served_model
            stale = [
                row
                for group in self._mixed(rows, group_size)
                for row in group
                if self._served(row) not in (None, current)
            ]
            for row in stale:
                entry = self._entries.pop(row)
                self.ask(row, replace(entry.question, fresh=True))
            if stale:
                self._await(should_stop, progress)
        for group in self._mixed(rows, group_size):
            served = Counter(name for row in group if (name := self._served(row)) is not None)
            (majority, _), *_ = served.most_common(1)
            for row in group:
                if self._served(row) not in (None, majority):
                    self._entries[row].verdict = _without_scores(self._verdict(row), MIXED)

    def _mixed(self, rows: int, group_size: int) -> list[range]:
        """The groups with verdicts from more than one model of the server."""
        groups = [range(start, start + group_size) for start in range(0, rows, group_size)]
        return [g for g in groups if len({self._served(row) for row in g} - {None}) > 1]

    def _served(self, row: int) -> str | None:
        """The model that scored a row; None if unknown or if the verdict failed."""
        verdict = self._verdict(row)
        return verdict.served_model if verdict.r_ida is not None else None


class Coverage:
    """Decides whether a step has enough scored completions to train on.

    Args:
        max_unscored: the largest share of failed verdicts, 0 to 1.
    """

    def __init__(self, max_unscored: float) -> None:
        self._max_unscored = max_unscored
        self._empty_steps = 0

    def check(self, verdicts: Sequence[Verdict]) -> None:
        """Check the verdicts of one step.

        Raises:
            JudgeUnavailable: too many verdicts failed, or all failed for the third step in a row.
        """
        failures = [v.failure for v in verdicts if v.failure is not None]
        failed, total = len(failures), len(verdicts)
        self._empty_steps = self._empty_steps + 1 if failed == total else 0
        if failed <= self._max_unscored * total and self._empty_steps < UNSCORED_STEPS:
            return
        self._empty_steps = 0
        most_common, _ = Counter(failures).most_common(1)[0]
        raise JudgeUnavailable(
            f"{failed} of {total} verdicts failed (limit {self._max_unscored:.0%}); "
            f"most common failure: {most_common}",
            "test the judge with ida-tui judge check, or raise judge.max_unscored",
        )


def _without_scores(verdict: Verdict, failure: str) -> Verdict:
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
