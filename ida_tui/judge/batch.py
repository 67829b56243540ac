"""The verdicts of one step: asked for as completions end, awaited together, never mixed in a group.

    docket = Docket(service)
    docket.ask(row, question)              # as soon as a completion is finished
    verdicts, stats = docket.settle(questions, group_size=8)

What has a verdict keeps it: `settle` may be called again after a `JudgeUnavailable`, on a docket with
another key, and asks only for what is missing.
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
"""So many steps in a row without any verdict pause a run whatever its `max_unscored`."""
MIXED = "another model of the server judged the rest of its group"

Progress = Callable[[int, int], None]
"""Told how many verdicts are in, of how many."""


class _Stopwatch:
    """How long at least one question was out; questions come and go on two threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._out = 0
        self._since = 0.0
        self._began: float | None = None
        self._seconds = 0.0
        self.first_s: float | None = None
        """From the first question to the first answer."""

    def question(self) -> None:
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began = now
            if self._out == 0:
                self._since = now
            self._out += 1

    def answer(self, future: Future[Verdict]) -> None:
        with self._lock:
            now = self._clock()
            self._out -= 1
            if self._out == 0:
                self._seconds += now - self._since
            if self.first_s is None and self._began is not None and not future.cancelled():
                self.first_s = now - self._began

    @property
    def seconds(self) -> float:
        with self._lock:
            running = self._clock() - self._since if self._out else 0.0
            return self._seconds + running


@dataclass(slots=True)
class _Entry:
    question: Question
    future: Future[Verdict]
    verdict: Verdict | None = None


class Docket:
    """The questions of one step, by row. Use it from one thread.

    Args:
        service: asks the judge.
        clock: seconds, monotonic.
    """

    def __init__(self, service: JudgeService, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._entries: dict[int, _Entry] = {}
        self._watch = _Stopwatch(clock)
        self._exposed_s = 0.0

    def ask(self, row: int, question: Question) -> None:
        """Ask about the completion of a row; the same question twice is asked once."""
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
        """Forget the step; calls that are under way are cancelled."""
        for entry in self._entries.values():
            entry.future.cancel()
        self._entries.clear()
        self._watch = _Stopwatch(self._clock)
        self._exposed_s = 0.0

    def turn_to(self, service: JudgeService, *, same_judge: bool) -> None:
        """Go on with another service; what another judge said is asked again, as groups are not mixed."""
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
        progress: Progress = lambda answered, asked: None,
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all rows; rows that were not asked about are asked now.

        Args:
            questions: one a row.
            group_size: rows of one group, which one and the same model must judge.
            should_stop: polled while calls are pending.
            progress: told of every change.

        Returns:
            The verdicts in the order of the rows, and the step's figures.

        Raises:
            JudgeInterrupted: `should_stop` returned true; pending calls are given up.
            JudgeUnavailable: the judge cannot be used; the verdicts that came are kept.
        """
        waiting_since = self._clock()
        try:
            for row, question in enumerate(questions):
                self.ask(row, question)
            self._await(should_stop, progress)
            self._unmix(len(questions), group_size, should_stop, progress)
        finally:
            self._exposed_s += self._clock() - waiting_since
        verdicts = [self._verdict(row) for row in range(len(questions))]
        declined = Counter(
            question.kind
            for question, verdict in zip(questions, verdicts, strict=True)
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
        """Have the rows without scores asked about again by the next `settle`."""
        for row, entry in list(self._entries.items()):
            if entry.verdict is not None and entry.verdict.failure is not None:
                del self._entries[row]

    def _verdict(self, row: int) -> Verdict:
        verdict = self._entries[row].verdict
        assert verdict is not None
        return verdict

    def _await(self, should_stop: Callable[[], bool], progress: Progress) -> None:
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
                # Whatever came in together with the fault is a verdict all the same.
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
        """Ask again for what an older model of the server said, and drop what stays apart."""
        # Twice: around the change an older model's reply may come in last, and pass for the current one.
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
            (kept, _), *_ = served.most_common(1)
            for row in group:
                if self._served(row) not in (None, kept):
                    self._entries[row].verdict = _without_scores(self._verdict(row), MIXED)

    def _mixed(self, rows: int, group_size: int) -> list[range]:
        """The groups that more than one model of the server has judged."""
        groups = [range(start, start + group_size) for start in range(0, rows, group_size)]
        return [g for g in groups if len({self._served(row) for row in g} - {None}) > 1]

    def _served(self, row: int) -> str | None:
        verdict = self._verdict(row)
        return verdict.served_model if verdict.r_ida is not None else None


class Coverage:
    """Decides whether a step has enough verdicts to be learnt from.

    Args:
        max_unscored: the share of completions that may lack a verdict.
    """

    def __init__(self, max_unscored: float) -> None:
        self._max_unscored = max_unscored
        self._empty_steps = 0

    def check(self, verdicts: Sequence[Verdict]) -> None:
        """Look at the verdicts of one step.

        Raises:
            JudgeUnavailable: too many are missing, or this is the third step without any.
        """
        failures = [v.failure for v in verdicts if v.failure is not None]
        missing, total = len(failures), len(verdicts)
        self._empty_steps = self._empty_steps + 1 if missing == total else 0
        if missing <= self._max_unscored * total and self._empty_steps < UNSCORED_STEPS:
            return
        self._empty_steps = 0
        why, _ = Counter(failures).most_common(1)[0]
        raise JudgeUnavailable(
            f"the judge gave no verdict on {missing} of {total} completions "
            f"({self._max_unscored:.0%} may lack one); mostly: {why}",
            "ida-tui judge check shows what the judge answers; judge.max_unscored allows more",
        )


def _without_scores(verdict: Verdict, failure: str) -> Verdict:
    """The verdict as a failure; what it took and cost stays."""
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
