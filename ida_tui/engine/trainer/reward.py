"""The judge in the trainer's step: asked as completions end, awaited at the reward, paused when it fails.

Everything here runs on the trainer's thread; the calls themselves run on the judge's.
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
ANOTHER_JUDGE = "another judge from here on: its verdicts do not compare with those before"
PROGRESS_S = 0.25
"""Time between two figures of how many verdicts are in."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What judging goes on with after a pause."""

    service: JudgeService
    same_judge: bool
    """False where another model or endpoint judges from here on."""
    max_unscored: float


Pause = Callable[[JudgeUnavailable], Replacement]
"""Keeps what there is, asks what to do, and blocks until there is an answer; or raises to end the run."""


@dataclass(frozen=True, slots=True)
class Row:
    """The prompt behind one completion of a step."""

    prompt_id: str
    prompt: str
    kind: Kind


class Judge(Protocol):
    """What the trainer asks of a judge; see `Judging`."""

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """A rollout starts; one row a completion."""

    def ended(self, row: int, text: str) -> None:
        """A completion is finished."""

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of the whole step."""

    def after_step(self, step: int) -> None:
        """A step is finished."""


class Judging:
    """The verdicts of every step.

    Args:
        service: asks the judge.
        probes: compares the judge with itself as the run goes on.
        max_unscored: the share of a step that may lack a verdict.
        emit: takes the events.
        stop_requested: whether the run should end.
        pause: what to do when the judge cannot be used.
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
        """The judging of one run, as its profile says."""
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
        """Before the first step: is the endpoint there, is the key good, and what does it say of the anchors?

        Raises:
            IdaError: it cannot be used, and nobody mends it.
        """
        self._until_it_works(lambda: self._service.look().result())
        self._probes.ask(0)

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """A rollout starts; one row a completion."""
        self._docket.give_up()
        self._step, self._rows = step, rows
        self._questions, self._seen = {}, {}
        self._told, self._told_at = None, float("-inf")

    def ended(self, row: int, text: str) -> None:
        """A completion is finished: ask about it while the others are still being sampled."""
        self._docket.ask(row, self._question(row, text))

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Wait for the verdicts of the whole step.

        Args:
            texts: the completions, one a row.
            group_size: completions of one prompt.

        Raises:
            JudgeInterrupted: somebody asked to stop.
            IdaError: the judge cannot be used, and nobody mends it.
        """
        questions = [self._question(row, text) for row, text in enumerate(texts)]

        def settle() -> tuple[list[Verdict], BatchStats]:
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

        return self._until_it_works(settle)

    def after_step(self, step: int) -> None:
        """A step is finished: see whether the judge still says what it said."""
        self._until_it_works(lambda: self._probes.after_step(step))

    def _until_it_works(self, attempt: Callable[[], T]) -> T:
        while True:
            try:
                return attempt()
            except JudgeUnavailable as error:
                new = self._pause(error)
                if not new.same_judge:
                    text = (
                        "another judge from here on: its verdicts do not compare with those before"
                    )
                    self._emit(ev.Noticed(level="warning", source="judge", text=text))
                self._service = new.service
                self._coverage = Coverage(new.max_unscored)
                self._docket.turn_to(new.service, same_judge=new.same_judge)
                self._probes.turn_to(new.service, same_judge=new.same_judge)

    def _question(self, row: int, text: str) -> Question:
        known = self._questions.get(row)
        if known is not None and known.completion == text:
            return known
        about = self._rows[row]
        # Equal completions of one prompt are still separate samples of the judge's opinion.
        sample = self._seen.get((about.prompt_id, text), 0)
        self._seen[about.prompt_id, text] = sample + 1
        question = Question(about.prompt_id, about.prompt, about.kind, text, sample)
        self._questions[row] = question
        return question

    def _progress(self, answered: int, asked: int) -> None:
        """Tell how many verdicts are in, when that has changed and the last figure is old enough."""
        if self._told is None and answered == asked:
            return  # all of it was there at once: nothing to watch
        now, figures = time.monotonic(), (answered, self._service.slots)
        if figures == self._told or (answered < asked and now - self._told_at < PROGRESS_S):
            return
        self._told, self._told_at = figures, now
        self._emit(
            ev.JudgeProgressed(
                step=self._step, answered=answered, asked=asked, slots=self._service.slots
            )
        )


class OneForAll:
    """The judge of a run of several processes: rank 0 asks it about everybody's completions, once.

    Args:
        ranks: the processes.
        judging: rank 0's; null on the others.
    """

    def __init__(self, ranks: Ranks, judging: Judging | None) -> None:
        self._ranks = ranks
        self._judging = judging

    def begin(self, step: int, rows: Sequence[Row]) -> None:
        """A rollout starts; the rows of all ranks."""
        if self._judging is not None:
            self._judging.begin(step, rows)

    def ended(self, row: int, text: str) -> None:
        """A completion of rank 0 is finished, or all of them are known there; rows are the step's."""
        if self._judging is not None:
            self._judging.ended(row, text)

    def verdicts(self, texts: Sequence[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """The verdicts of the whole step, on every rank.

        Raises:
            RankLost: rank 0 has ended the run meanwhile, or another rank is gone.
            IdaError: on rank 0, as `Judging.verdicts`.
        """
        said = None if self._judging is None else self._judging.verdicts(texts, group_size)
        return self._ranks.told(said)

    def after_step(self, step: int) -> None:
        """A step is finished."""
        if self._judging is not None:
            self._judging.after_step(step)
