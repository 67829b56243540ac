"""Reward collector: sends completions to the judge during generation and waits for the step's verdicts.

A judge that cannot be used pauses the run until somebody fixes it. Everything here runs on the trainer's
thread. The judge calls run on the judge's own thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ida_tui.config.conversation import Context, chat_messages
from ida_tui.config.prompts import rubric_checks_of
from ida_tui.config.schema import Config, PromptKind
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.judge import BatchStats, JudgeRequest, Verdict
from ida_tui.judge.batch import VerdictBatch, VerdictCoverage
from ida_tui.judge.calibration.drift import DriftMonitor
from ida_tui.judge.errors import FunctionsUnavailable, JudgeInterrupted, JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.rewards.functions import ComputedScores, PendingScores, RewardFunctions, RewardRow
from ida_tui.util.plugin_threads import PluginStopped

if TYPE_CHECKING:
    from ida_tui.engine.distributed.process_group import ProcessGroup

T = TypeVar("T")
MAX_REPORTED_FAILURES = 20
"""Number of reasons for missing scores that a run warns about."""
PROGRESS_INTERVAL_S = 0.25
"""Shortest time between two JudgeProgressed events."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Judge service that a run uses after a pause."""

    service: JudgeService
    same_judge: bool
    """False if verdicts before and after the pause are not comparable."""
    max_unscored: float
    """Share of a step's completions that may have a failed verdict."""


Pause = Callable[[JudgeUnavailable], Replacement]
"""Pauses the run and blocks until it is resumed; raises to end the run."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Prompt of one completion in a step."""

    prompt_id: str
    prompt: str
    kind: PromptKind | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the prompt's row, for reward functions and the rubric."""
    context: Context = ()
    """The messages before the prompt's text."""


class RewardSource(Protocol):
    """Interface through which the trainer gets rewards; see `RewardCollector`."""

    def begin_step(self, step: int, rows: Sequence[PromptRow]) -> None:
        """Start a rollout, with one row per completion."""

    def completion_ended(self, row: int, text: str) -> None:
        """Accept a finished completion."""

    def collect_verdicts(
        self, texts: Sequence[str], group_size: int, token_ids: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the scores of all completions of the step."""

    def after_step(self, step: int) -> None:
        """Finish a step."""


class RewardCollector:
    """Collects the verdicts of every step.

    Args:
        service: sends the judge calls.
        drift_monitor: checks during the run whether the judge's verdicts drift.
        max_unscored: share of a step's completions that may have a failed verdict.
        emit: receives the events.
        stop_requested: returns whether the run should end.
        pause: called when the judge cannot be used.
        functions: the reward functions of the computed axes; None without any.
        steps: planned steps, which reward functions may read.
        clock: the run's clock, which stands still while the run is paused.
        group_size: completions per prompt, for a judge that scores a group in one call.
    """

    def __init__(
        self,
        service: JudgeService,
        drift_monitor: DriftMonitor,
        *,
        max_unscored: float,
        emit: Callable[[ev.Event], object],
        stop_requested: Callable[[], bool],
        pause: Pause,
        functions: RewardFunctions | None = None,
        steps: int = 0,
        clock: Callable[[], float] = time.monotonic,
        group_size: int = 1,
    ) -> None:
        self._service = service
        self._functions = functions
        self._steps = steps
        self._computed: list[ComputedScores] | None = None
        self._computed_step = -1
        self._reported_failures: set[str] = set()
        self._drift_monitor = drift_monitor
        self._coverage = VerdictCoverage(max_unscored)
        self._emit = emit
        self._stop_requested = stop_requested
        self._pause = pause
        self._batch = VerdictBatch(service, clock, group_size)
        self._step = 0
        self._rows: Sequence[PromptRow] = ()
        self._requests: dict[int, JudgeRequest] = {}
        self._sample_counts: dict[tuple[str, str], int] = {}
        self._last_progress: tuple[int, int | None] | None = None
        self._last_progress_at = float("-inf")

    @classmethod
    def from_config(
        cls,
        config: Config,
        service: JudgeService,
        *,
        emit: Callable[[ev.Event], object],
        stop_requested: Callable[[], bool],
        pause: Pause,
        functions: RewardFunctions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> RewardCollector:
        """Create the collector of one run from its profile."""
        judge = config.judge
        drift_monitor = DriftMonitor(
            service, interval=judge.anchor_every, planned_steps=config.planned_steps(), emit=emit
        )
        return cls(
            service,
            drift_monitor,
            max_unscored=judge.max_unscored,
            emit=emit,
            stop_requested=stop_requested,
            pause=pause,
            functions=functions,
            steps=config.planned_steps(),
            clock=clock,
            group_size=config.training.num_generations,
        )

    def check_judge(self) -> None:
        """Check the judge's endpoint and key before the first step, and score the anchor answers.

        Raises:
            IdaError: the judge cannot be used, and the run was not resumed with a working one.
        """
        self._retry_after_pause(lambda: self._service.probe_endpoint().result())
        self._drift_monitor.start_probe(0)

    def begin_step(self, step: int, rows: Sequence[PromptRow]) -> None:
        """Start a rollout, with one row per completion."""
        self._batch.discard()
        self._step, self._rows = step, rows
        self._computed = None
        self._requests, self._sample_counts = {}, {}
        self._last_progress, self._last_progress_at = None, float("-inf")

    def completion_ended(self, row: int, text: str) -> None:
        """Send a finished completion to the judge while the others are still being generated."""
        self._batch.submit(row, self._request_for(row, text))

    def collect_verdicts(
        self, texts: Sequence[str], group_size: int, token_ids: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the scores of all completions of the step: the judge's verdicts and the computed scores.

        Args:
            texts: the completions, one per row.
            group_size: completions per prompt.
            token_ids: their token ids, for reward functions; empty if unknown.

        Raises:
            JudgeInterrupted: a stop was requested.
            IdaError: the judge cannot be used, and the run was not resumed with a working one.
        """
        requests = [self._request_for(row, text) for row, text in enumerate(texts)]

        def collect() -> tuple[list[Verdict], BatchStats]:
            pending = self._start_functions(texts, group_size, token_ids)
            verdicts, stats = self._batch.collect(
                requests,
                group_size=group_size,
                should_stop=self._stop_requested,
                on_progress=self._emit_progress,
            )
            self._drift_monitor.collect()
            self._collect_computed(pending)
            merged = self._with_computed(verdicts)
            # A formula without a value counts as a failed function: no judge can correct it.
            failed = [
                computed.failure is not None
                or (row.failure is not None and verdict.failure is None)
                for computed, verdict, row in zip(
                    self._computed or (), verdicts, merged, strict=False
                )
            ]
            try:
                self._coverage.check(merged, failed_functions=sum(failed))
            except JudgeUnavailable:
                self._batch.retry_failed()
                if any(failed):
                    self._computed = None
                raise
            return merged, stats

        return self._retry_after_pause(collect)

    def after_step(self, step: int) -> None:
        """Check the judge for drift after a step, when a check is due."""
        self._retry_after_pause(lambda: self._drift_monitor.after_step(step))

    def _start_functions(
        self, texts: Sequence[str], group_size: int, token_ids: Sequence[Sequence[int]]
    ) -> PendingScores | None:
        """Let the reward functions compute while the judge works."""
        if self._functions is None or self._computed is not None:
            return None
        if self._computed_step == self._step:
            self._reload_functions(self._functions)
        self._computed_step = self._step
        rows = [
            RewardRow(
                row.prompt_id,
                row.prompt,
                chat_messages(row.prompt, row.context),
                text,
                token_ids[number] if token_ids else (),
                row.columns,
            )
            for number, (row, text) in enumerate(zip(self._rows, texts, strict=True))
        ]
        return self._functions.start(
            rows, group_size=group_size, step=self._step - 1, steps=self._steps
        )

    def _reload_functions(self, functions: RewardFunctions) -> None:
        """Import the functions again: they failed in this step, and somebody may have corrected them.

        Raises:
            FunctionsUnavailable: they cannot be imported.
        """
        try:
            functions.reload()
        except PluginStopped:
            raise JudgeInterrupted from None
        except IdaError as error:
            raise FunctionsUnavailable(error.title, error.hint) from error

    def _collect_computed(self, pending: PendingScores | None) -> None:
        if pending is not None:
            try:
                self._computed = pending.collect(self._stop_requested)
            except PluginStopped:
                raise JudgeInterrupted from None
            self._report_failures(self._computed)

    def _report_failures(self, computed: Sequence[ComputedScores]) -> None:
        """Warn once about each reason why a function gave no score."""
        counts = Counter(each.failure for each in computed if each.failure is not None)
        for failure, count in counts.most_common():
            if failure in self._reported_failures:
                continue
            if len(self._reported_failures) >= MAX_REPORTED_FAILURES:
                return
            self._reported_failures.add(failure)
            text = f"no score for {count} of {len(computed)} completions: {failure}"
            self._emit(ev.Noticed(level="warning", source="reward", text=text))

    def _with_computed(self, verdicts: list[Verdict]) -> list[Verdict]:
        if self._computed is None:
            return verdicts
        formula = self._service.formula
        return [
            verdict.with_computed(computed, formula)
            for verdict, computed in zip(verdicts, self._computed, strict=True)
        ]

    def _retry_after_pause(self, attempt: Callable[[], T]) -> T:
        while True:
            try:
                return attempt()
            except JudgeUnavailable as error:
                replacement = self._pause(error)
                service, same_judge = replacement.service, replacement.same_judge
                self._service = service
                self._coverage = VerdictCoverage(replacement.max_unscored)
                self._batch.switch_service(service, same_judge=same_judge)
                self._drift_monitor.switch_service(service, same_judge=same_judge)

    def _request_for(self, row: int, text: str) -> JudgeRequest:
        existing = self._requests.get(row)
        if existing is not None and existing.completion == text:
            return existing
        prompt = self._rows[row]
        # Identical completions of a prompt are judged separately, so that each has its own cache entry.
        sample = self._sample_counts.get((prompt.prompt_id, text), 0)
        self._sample_counts[prompt.prompt_id, text] = sample + 1
        request = JudgeRequest(
            prompt.prompt_id,
            prompt.prompt,
            prompt.kind,
            text,
            sample,
            checks=rubric_checks_of(prompt.columns),
            context=prompt.context,
        )
        self._requests[row] = request
        return request

    def _emit_progress(self, answered: int, total: int) -> None:
        """Emit the number of verdicts received, if it has changed and the last event is old enough."""
        if self._last_progress is None and answered == total:
            return  # all verdicts had arrived already
        now, progress = time.monotonic(), (answered, self._service.slots)
        if progress == self._last_progress or (
            answered < total and now - self._last_progress_at < PROGRESS_INTERVAL_S
        ):
            return
        self._last_progress, self._last_progress_at = progress, now
        self._emit(
            ev.JudgeProgressed(
                step=self._step, answered=answered, asked=total, slots=self._service.slots
            )
        )


class DistributedRewardCollector:
    """Reward source for several processes: rank 0 judges the completions of all ranks.

    Args:
        process_group: the processes of the run.
        collector: the collector on rank 0; None on the other ranks.
    """

    def __init__(self, process_group: ProcessGroup, collector: RewardCollector | None) -> None:
        self._process_group = process_group
        self._collector = collector

    def begin_step(self, step: int, rows: Sequence[PromptRow]) -> None:
        """Start a rollout, with the rows of all ranks."""
        if self._collector is not None:
            self._collector.begin_step(step, rows)

    def completion_ended(self, row: int, text: str) -> None:
        """Accept a finished completion; `row` counts the rows of all ranks. Ignored except on rank 0."""
        if self._collector is not None:
            self._collector.completion_ended(row, text)

    def collect_verdicts(
        self, texts: Sequence[str], group_size: int, token_ids: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all ranks' completions and return them on every rank.

        Raises:
            PeerLostError: rank 0 has ended the run, or another rank has exited.
            IdaError: on rank 0, as in `RewardCollector`.
        """
        group, result = self._process_group, None
        group.is_followed = group.shares_model  # the judge may be unavailable, and the run pause
        if self._collector is not None:
            result = self._collector.collect_verdicts(texts, group_size, token_ids)
        if not group.shares_model:
            return group.broadcast(result)
        verdicts: tuple[list[Verdict], BatchStats] = (
            group.follow() if result is None else group.release(result)
        )
        return verdicts

    def after_step(self, step: int) -> None:
        """Finish a step."""
        if self._collector is not None:
            self._collector.after_step(step)
