"""What one step of training looks like from outside: phases, completions, verdicts, figures.

The trainer calls these methods from its hooks; each turns into events. No torch in here: the watcher
is the boundary that only plain values cross.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Kind
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.events import types as ev
from ida_tui.judge import BatchStats, Verdict
from ida_tui.judge.calibration.cross_check import CrossCheck, CrossChecked, Seen

Emit = Callable[[ev.Event], object]


@dataclass(frozen=True, slots=True)
class Movement:
    """What an update did to the trainable weights."""

    relative: float
    """L2 norm of their change since the start, relative to their norm then."""
    norm: float
    """Their L2 norm."""
    largest: float
    """Largest change of one of them since the start, by absolute value."""
    skipped: bool = False
    """Whether the scaler refused the update."""
    non_finite: int = 0
    """Gradient elements that were NaN or infinite."""
    loss_scale: float | None = None
    """The scaler's scale; null where there is none."""


class Watcher:
    """Follows the trainer through its steps and emits what happens.

    Args:
        emit: takes every event; called on the trainer's thread only.
        stop: set from any thread when the run should end.
        steps: optimizer steps of the whole run.
        cross_check: looks at the completions beside the judge; null leaves those figures out.
        clock: seconds, monotonic.
        agree: whether any process of the run wants what this one does; all of them ask at the same places.
    """

    def __init__(
        self,
        emit: Emit,
        stop: threading.Event,
        steps: int,
        cross_check: CrossCheck | None = None,
        clock: Callable[[], float] = time.monotonic,
        agree: Callable[[bool], bool] = lambda wanted: wanted,
    ) -> None:
        self.emit = emit
        self.steps = steps
        self._stop = stop
        self._cross_check = cross_check
        self._clock = clock
        self._agree = agree
        self._phase: ev.Phase | None = None
        self._phase_started = clock()
        self._seconds: dict[str, float] = {}
        self._completions: Sequence[ev.CompletionFinished] = ()
        self._kinds: Sequence[Kind] = ()
        self._verdicts: list[Verdict] = []
        self.r_ida: float | None = None
        """Mean R_IDA of the last finished step; null where nothing was scored."""

    def stop_requested(self) -> bool:
        """Whether the user asked to stop."""
        return self._stop.is_set()

    def raise_if_stopped(self) -> None:
        """Leave the step here if the user asked to stop.

        Raises:
            RunInterrupted: they did.
            RankLost: another process of the run is gone.
        """
        if self._agree(self._stop.is_set()):
            raise RunInterrupted

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the user asks to stop.

        Raises:
            RunInterrupted: they did.
        """
        if self._stop.wait(seconds):
            raise RunInterrupted

    def enter(self, phase: ev.Phase, step: int) -> None:
        """The trainer turns to another part of the step; the same part again says nothing."""
        if phase == self._phase:
            return
        self._close_phase()
        self._phase = phase
        self.emit(ev.PhaseChanged(step=step, phase=phase))

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each part of the step under way has taken so far, but for the part it is in."""
        return dict(self._seconds)

    def completions_finished(
        self, completions: Sequence[ev.CompletionFinished], kinds: Sequence[Kind]
    ) -> None:
        """All completions of the step, as text, and the kinds of their prompts."""
        self._completions, self._kinds = completions, kinds
        for completion in completions:
            self.emit(completion)

    def judged(self, step: int, verdicts: Sequence[Verdict], stats: BatchStats) -> None:
        """The verdicts of the step are in; `completions_scored` says what became of them."""
        self._verdicts = list(verdicts)
        self.emit(
            ev.JudgeBatchFinished(
                step=step,
                calls=stats.calls,
                cached=stats.cached,
                failed=stats.failed,
                retries=stats.retries,
                seconds=stats.seconds,
                exposed_s=stats.exposed_s,
                p50_s=stats.p50_s,
                p95_s=stats.p95_s,
                cost=stats.cost,
                first_s=stats.first_s,
                slots=stats.slots,
                declined=stats.declined,
            )
        )

    def completions_scored(self, step: int, generations: int, advantages: Sequence[float]) -> None:
        """Every verdict of the step with the advantage it led to, in the order of the completions."""
        for row, (verdict, advantage) in enumerate(zip(self._verdicts, advantages, strict=True)):
            self.emit(
                ev.CompletionScored(
                    step=step,
                    group=row // generations,
                    index=row % generations,
                    align=verdict.align,
                    risk=verdict.risk,
                    detail=verdict.detail,
                    r_ida=verdict.r_ida,
                    advantage=None if verdict.r_ida is None else advantage,
                    reason=verdict.reason,
                    judge=verdict.judge,
                    latency_s=verdict.latency_s,
                    cost=verdict.cost,
                    cached=verdict.cached,
                    failure=verdict.failure,
                )
            )

    def step_finished(
        self,
        step: int,
        logs: Mapping[str, float | None],
        moved: Movement,
        ranks: tuple[ev.RankFigures, ...] = (),
    ) -> None:
        """The optimizer has moved the weights (or the scaler has refused to).

        Args:
            step: number of the step, from 1.
            logs: TRL's figures of the step, by TRL's names.
            moved: what the update did to the weights.
            ranks: every process's figures, where there are several.
        """
        scored = [v for v in self._verdicts if v.r_ida is not None]
        beside = self._looked_at()
        self._close_phase()
        self._phase = None
        self.r_ida = _mean([v.r_ida for v in scored])
        self.emit(
            ev.StepFinished(
                step=step,
                steps=self.steps,
                align=_mean([v.align for v in scored]),
                risk=_mean([v.risk for v in scored]),
                detail=_mean([v.detail for v in scored]),
                r_ida=self.r_ida,
                scored=len(scored),
                completions=len(self._verdicts),
                kl=_finite(logs.get("kl")),
                entropy=_finite(logs.get("entropy")),
                loss=_finite(logs.get("loss")),
                grad_norm=_finite(logs.get("grad_norm")),
                learning_rate=_finite(logs.get("learning_rate")),
                lengths=_lengths(logs),
                truncated=_finite(logs.get("completions/clipped_ratio")),
                zero_std=self._zero_variance(logs),
                weight_delta=moved.relative,
                skipped=moved.skipped,
                seconds={phase: round(spent, 4) for phase, spent in self._seconds.items()},
                weight_norm=moved.norm,
                largest_change=moved.largest,
                non_finite=moved.non_finite,
                loss_scale=moved.loss_scale,
                ranks=ranks,
                harmless=beside.harmless,
                harmless_refused=beside.harmless_refused,
                unsafe=beside.unsafe,
                unsafe_declined=beside.unsafe_declined,
                repetition=beside.repetition,
                length_r=beside.length_r,
                offline_r_ida=beside.offline_r_ida,
            )
        )
        self._seconds = {}
        self._verdicts, self._completions = [], ()

    def _zero_variance(self, logs: Mapping[str, float | None]) -> float | None:
        """Share of groups whose rewards are all equal; TRL's own figure looks at the whole batch at once."""
        groups: dict[int, set[float]] = {}
        for said, verdict in zip(self._completions, self._verdicts, strict=False):
            if verdict.r_ida is not None:
                groups.setdefault(said.group, set()).add(verdict.r_ida)
        if not groups:
            return _finite(logs.get("frac_reward_zero_std"))
        return sum(len(rewards) == 1 for rewards in groups.values()) / len(groups)

    def _looked_at(self) -> CrossChecked:
        """The step's completions beside their judge."""
        if self._cross_check is None or len(self._completions) != len(self._verdicts):
            return CrossChecked()
        rows = zip(self._completions, self._kinds, self._verdicts, strict=True)
        return self._cross_check.look(
            [
                Seen(said.group, said.prompt, kind, said.text, said.tokens, verdict)
                for said, kind, verdict in rows
            ]
        )

    def _close_phase(self) -> None:
        now = self._clock()
        if self._phase is not None:
            spent = now - self._phase_started
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + spent
        self._phase_started = now


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(value: float | None) -> float | None:
    """A figure as events have it; none where it is not finite, or larger than a figure of a run can be."""
    return float(value) if value is not None and abs(value) <= ev.MOST else None


def _lengths(logs: Mapping[str, float | None]) -> tuple[float, float, float] | None:
    figures = [_finite(logs.get(f"completions/{name}_length")) for name in ("mean", "min", "max")]
    mean, low, high = figures
    return None if mean is None or low is None or high is None else (mean, low, high)
