"""Reward collector: sends completions to the judge during generation and waits for the step's verdicts.

A judge that cannot be used pauses the run until somebody fixes it. Everything here runs on the trainer's
thread. The judge calls run on the judge's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from ida_tui.config.schema import Config, Kind
from ida_tui.events import types as ev
from ida_tui.judge import BatchStats, Question, Verdict
from ida_tui.judge.batch import Coverage, Docket
from ida_tui.judge.calibration.drift import Probes
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import JudgeService

if TYPE_CHECKING:
    from ida_tui.engine.distributed.process_group import Ranks

T = TypeVar("T")
ANOTHER_JUDGE = "the judge has changed: verdicts before and after this point are not comparable"
PROGRESS_S = 0.25
"""Shortest time between two JudgeProgressed events."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Judge service that a run uses after a pause."""

    service: JudgeService
    same_judge: bool
    """False if the judge's model or endpoint has changed."""
    max_unscored: float
    """Share of a step's completions that may have a failed verdict."""


Pause = Callable[[JudgeUnavailable], Replacement]
"""Pauses the run and blocks until it is resumed; raises to end the run."""


@dataclass(frozen=True, slots=True)
class Row:
    """Prompt of one completion in a step."""

    prompt_id: str
    prompt: str
    kind: Kind


class Judge(Protocol):
    """Interface through which the trainer gets rewards; see `RewardCollector`."""

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """Start a rollout, with one row per completion."""

    def ended(self, row: int, text: str) -> None:
        """Accept a finished completion."""

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all completions of the step."""

    def after_step(self, step: int) -> None:
        """Finish a step."""


class Judging:
    """Collects the verdicts of every step.

    Args:
        service: sends the judge calls.
        drift_monitor: checks during the run whether the judge's verdicts drift.
        max_unscored: share of a step's completions that may have a failed verdict.
        emit: receives the events.
        stop_requested: returns whether the run should end.
        pause: called when the judge cannot be used.
    """

    def __init__(
        self,
        service: JudgeService,
        probes: Probes,
        *,
        max_unscored: float,
        emit: Callable[[ev.Event], object],
        stop_requested: Callable[[], bool],
        pause: Pause,
    ) -> None:
        self._service = service
        self._probes = probes
        self._coverage = Coverage(max_unscored)
        self._emit = emit
        self._stop_requested = stop_requested
        self._pause = pause
        self._docket = Docket(service)
        self._step = 0
        self._rows: Sequence[Row] = ()
        self._questions: dict[int, Question] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._told: tuple[int, int | None] | None = None
        self._told_at = float("-inf")

    @classmethod
    def of(
        cls,
        config: Config,
        service: JudgeService,
        *,
        emit: Callable[[ev.Event], object],
        stop_requested: Callable[[], bool],
        pause: Pause,
    ) -> Judging:
        """Create the collector of one run from its profile."""
        judge = config.judge
        probes = Probes(service, every=judge.anchor_every, steps=config.planned_steps(), emit=emit)
        return cls(
            service,
            probes,
            max_unscored=judge.max_unscored,
            emit=emit,
            stop_requested=stop_requested,
            pause=pause,
        )

    def meet(self) -> None:
        """Check the judge's endpoint and key before the first step, and score the anchor answers.

        Raises:
            IdaError: the judge cannot be used, and the run was not resumed with a working one.
        """
        self._until_it_works(lambda: self._service.look().result())
        self._probes.ask(0)

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """Start a rollout, with one row per completion."""
        self._docket.give_up()
        self._step, self._rows = step, rows
        self._questions, self._seen = {}, {}
        self._told, self._told_at = None, float("-inf")

    def ended(self, row: int, text: str) -> None:
        """Send a finished completion to the judge while the others are still being generated."""
        self._docket.ask(row, self._question(row, text))

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all completions of the step.

        Args:
            texts: the completions, one per row.
            group_size: completions per prompt.

        Raises:
            JudgeInterrupted: the user asked to stop.
            IdaError: the judge cannot be used, and the run was not resumed with a working one.
        """
        questions = [self._question(row, text) for row, text in enumerate(texts)]

        def collect() -> tuple[list[Verdict], BatchStats]:
            verdicts, stats = self._docket.settle(
                questions,
                group_size=group_size,
                should_stop=self._stop_requested,
                progress=self._progress,
            )
            self._probes.collect()
            try:
                self._coverage.check(verdicts)
            except JudgeUnavailable:
                self._docket.reopen_failed()
                raise
            return verdicts, stats

        return self._until_it_works(collect)

    def after_step(self, step: int) -> None:
        """Check the judge for drift after a step, when a check is due."""
        self._until_it_works(lambda: self._probes.after_step(step))

    def _until_it_works(self, attempt: Callable[[], T]) -> T:
        while True:
            try:
                return attempt()
            except JudgeUnavailable as error:
                replacement = self._pause(error)
                service, same_judge = replacement.service, replacement.same_judge
                if not same_judge:
                    self._emit(ev.Noticed(level="warning", source="judge", text=ANOTHER_JUDGE))
                self._service = service
                self._coverage = Coverage(replacement.max_unscored)
                self._docket.turn_to(service, same_judge=same_judge)
                self._probes.turn_to(service, same_judge=same_judge)

    def _question(self, row: int, text: str) -> Question:
        existing = self._questions.get(row)
        if existing is not None and existing.completion == text:
            return existing
        prompt = self._rows[row]
        # Identical completions of a prompt are judged separately, so that each has its own cache entry.
        sample = self._seen.get((prompt.prompt_id, text), 0)
        self._seen[prompt.prompt_id, text] = sample + 1
        request = Question(prompt.prompt_id, prompt.prompt, prompt.kind, text, sample)
        self._questions[row] = request
        return request

    def _progress(self, answered: int, asked: int) -> None:
        """Emit the number of verdicts received, if it has changed and the last event is old enough."""
        if self._told is None and answered == asked:
            return  # all verdicts had arrived already
        now, progress = time.monotonic(), (answered, self._service.slots)
        if progress == self._told or (answered < asked and now - self._told_at < PROGRESS_S):
            return
        self._told, self._told_at = progress, now
        self._emit(
            ev.JudgeProgressed(
                step=self._step, answered=answered, asked=asked, slots=self._service.slots
            )
        )


class OneForAll:
    """Reward source for several processes: rank 0 judges the completions of all ranks.

    Args:
        process_group: the processes of the run.
        collector: the collector on rank 0; None on the other ranks.
    """

    def __init__(self, ranks: Ranks, judging: Judging | None) -> None:
        self._ranks = ranks
        self._judging = judging

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """Start a rollout, with the rows of all ranks."""
        if self._judging is not None:
            self._judging.begin(step, rows)

    def ended(self, row: int, text: str) -> None:
        """Accept a finished completion; `row` counts the rows of all ranks. Ignored except on rank 0."""
        if self._judging is not None:
            self._judging.ended(row, text)

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of all ranks' completions and return them on every rank.

        Raises:
            PeerLostError: rank 0 has ended the run, or another rank has exited.
            IdaError: on rank 0, as in `RewardCollector`.
        """
        result = None if self._judging is None else self._judging.verdicts(texts, group_size)
        return self._ranks.told(result)

    def after_step(self, step: int) -> None:
        """Finish a step."""
        if self._judging is not None:
            self._judging.after_step(step)
