"""Recorder of training steps: turns the trainer's hooks into events.

The trainer calls a method for each phase, completion, verdict and optimizer update. Only plain Python values
cross this boundary: this module does not use torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ida_tui.config.schema import PromptKind
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.events import types as ev
from ida_tui.judge import BatchStats, Verdict
from ida_tui.judge.backends.offline.refusal import unclassified_note
from ida_tui.judge.calibration.cross_check import CrossChecker, CrossCheckFigures, JudgedCompletion
from ida_tui.judge.calibration.group_verdicts import group_verdicts
from ida_tui.judge.verdict import mean_scores
from ida_tui.system.clock import RunClock
from ida_tui.util.statistics import mean_of_known
from ida_tui.util.text import is_blank
from ida_tui.util.thoughts import answer_of, split_thought

if TYPE_CHECKING:
    from ida_tui.engine.rollout.importance import SamplingFigures

Emit = Callable[[ev.Event], object]


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Effect of an optimizer update on the trainable weights."""

    relative_change: float
    """L2 norm of their change since the start of the run, over their L2 norm at the start."""
    weight_norm: float
    """L2 norm of the weights."""
    largest_change: float
    """Largest absolute change of a single weight since the start."""
    skipped: bool = False
    """Whether the loss scaler skipped the update."""
    non_finite_gradients: int = 0
    """Number of gradient elements that were NaN or infinite."""
    loss_scale: float | None = None
    """Current loss scale; None without a scaler."""
    model_change: float | None = None
    """L2 norm of the change of the model's weights since the start, over that of the whole model."""


class StepRecorder:
    """Records the trainer's steps and emits their events.

    Args:
        emit: receives every event; called only on the trainer's thread.
        stop: set from any thread to end the run.
        steps: number of optimizer steps in the run.
        axes: names of the axes, in order.
        cross_check: computes judge-independent figures of the completions; None leaves them out.
        clock: the run's clock, which stands still while the run is paused; None starts one.
        any_rank: returns whether the flag is true on any process of the run. A collective call.
        judged_axes: the axes that a judge scores; without any, its verdicts have no figures.
    """

    def __init__(
        self,
        emit: Emit,
        stop: threading.Event,
        steps: int,
        axes: Sequence[str],
        cross_check: CrossChecker | None = None,
        clock: RunClock | None = None,
        any_rank: Callable[[bool], bool] = lambda flag: flag,
        judged_axes: Collection[str] = (),
    ) -> None:
        self.emit = emit
        self.steps = steps
        self._stop = stop
        self._axes = axes
        self._judged_axes = frozenset(judged_axes)
        self._cross_check = cross_check
        self.clock = clock = clock or RunClock()
        """The run's clock."""
        self._any_rank = any_rank
        self._phase: ev.Phase | None = None
        self._phase_started = clock()
        self._seconds: dict[str, float] = {}
        self._completions: Sequence[ev.CompletionFinished] = ()
        self._kinds: Sequence[PromptKind | None] = ()
        self._verdicts: list[Verdict] = []
        self._logprob_gap: float | None = None
        self._sampling: SamplingFigures | None = None
        self._noted_unclassified = False
        self.reward: float | None = None
        """Mean reward of the newest completions of a finished step; None if none of them was scored."""

    def stop_requested(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.is_set()

    def raise_if_stopped(self) -> None:
        """Leave the step if a stop was requested.

        Raises:
            RunInterrupted: a stop was requested on some rank.
            PeerLostError: another process of the run has exited.
        """
        if self._any_rank(self._stop.is_set()):
            raise RunInterrupted

    def wait(self, seconds: float) -> None:
        """Wait for this many seconds, which count as a pause.

        Raises:
            RunInterrupted: a stop was requested meanwhile.
        """
        with self.clock.paused():
            if self._stop.wait(seconds):
                raise RunInterrupted

    def enter_phase(self, phase: ev.Phase, step: int) -> None:
        """Start a phase of the step. Does nothing if the phase is already active."""
        if phase == self._phase:
            return
        self._close_phase()
        self._phase = phase
        self.emit(ev.PhaseChanged(step=step, phase=phase))

    @property
    def phase_seconds(self) -> Mapping[str, float]:
        """Seconds spent in each finished phase of the step in progress."""
        return dict(self._seconds)

    def record_completions(
        self, completions: Sequence[ev.CompletionFinished], kinds: Sequence[PromptKind | None]
    ) -> None:
        """Record all completions of the step and the kinds of their prompts."""
        self._completions, self._kinds = completions, kinds
        for completion in completions:
            self.emit(completion)

    def record_verdicts(self, step: int, verdicts: Sequence[Verdict], stats: BatchStats) -> None:
        """Record the step's verdicts and the statistics of the judge calls."""
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
                members=stats.members,
                spread=stats.spread,
                failure=stats.failure,
                traffic=stats.traffic,
            )
        )

    def record_scores(self, step: int, group_size: int, advantages: Sequence[float]) -> None:
        """Emit every verdict of the step with its advantage, in the order of the completions."""
        for row, (verdict, advantage) in enumerate(zip(self._verdicts, advantages, strict=True)):
            self.emit(
                ev.CompletionScored(
                    step=step,
                    group=row // group_size,
                    index=row % group_size,
                    scores=verdict.scores or dict.fromkeys(self._axes),
                    reward=verdict.reward,
                    advantage=None if verdict.reward is None else advantage,
                    reason=verdict.reason,
                    judge=verdict.judge,
                    latency_s=verdict.latency_s,
                    cost=verdict.cost,
                    cached=verdict.cached,
                    failure=verdict.failure,
                    spread=verdict.spread,
                    verdicts=verdict.samples,
                )
            )

    def record_logprob_gap(self, gap: float) -> None:
        """Record the mean difference of log-probabilities as drawn and as the loss scores them, in nats."""
        self._logprob_gap = gap

    def record_sampling(self, figures: SamplingFigures | None) -> None:
        """Record how far the policy that drew the completions is from the one that is trained."""
        self._sampling = figures

    def record_step(
        self,
        step: int,
        logs: Mapping[str, float | None],
        reused_step: int | None,
        update: UpdateStats,
        ranks: tuple[ev.RankFigures, ...] = (),
        least_seconds: Mapping[str, float] = MappingProxyType({}),
        stragglers_s: float | None = None,
    ) -> None:
        """Finish the step after its optimizer update, or after the scaler skipped the update.

        Args:
            step: number of the step, from 1.
            logs: TRL's metrics of the step, under TRL's names.
            reused_step: the earlier step whose completions this step reused; None if it generated its own.
            update: effect of the update on the weights.
            ranks: figures of every process; empty for a single process.
            least_seconds: shortest time of each phase at the device's speed; empty if it is not known.
            stragglers_s: time of the rollout in which nine in ten completions had ended; None if unknown.
        """
        scored = [v for v in self._verdicts if v.reward is not None]
        cross_check = self._cross_check_figures()
        self._note_unclassified(step, cross_check.unclassified)
        thoughts = [c.thought_tokens for c in self._completions if c.thought_tokens]
        sampling = self._sampling
        self._close_phase()
        self._phase = None
        reward = mean_of_known([v.reward for v in scored])
        if reused_step is None:
            self.reward = reward
        self.emit(
            ev.StepFinished(
                step=step,
                steps=self.steps,
                scores=mean_scores(scored) or dict.fromkeys(self._axes),
                reward=reward,
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
                weight_delta=update.relative_change,
                skipped=update.skipped,
                seconds={phase: round(spent, 4) for phase, spent in self._seconds.items()},
                weight_norm=update.weight_norm,
                largest_change=update.largest_change,
                non_finite=update.non_finite_gradients,
                loss_scale=update.loss_scale,
                ranks=ranks,
                harmless=cross_check.harmless,
                harmless_refused=cross_check.harmless_refused,
                unsafe=cross_check.unsafe,
                unsafe_declined=cross_check.unsafe_declined,
                repetition=cross_check.repetition,
                length_r=cross_check.length_r,
                offline_reward=cross_check.offline_reward,
                model_change=update.model_change,
                logprob_gap=_finite(self._logprob_gap),
                sampling_ratio=_finite(sampling.ratio) if sampling else None,
                sampling_kl=_finite(sampling.divergence) if sampling else None,
                sampling_clipped=_finite(sampling.outside) if sampling else None,
                thought_tokens=mean_of_known(thoughts),
                unfinished_thoughts=sum(
                    parts.unfinished and is_blank(parts.answer)
                    for parts in map(split_thought, (c.text for c in self._completions))
                ),
                reused_step=reused_step,
                judge_groups=self._judge_groups(),
                least_seconds={
                    phase: round(least, 4)
                    for phase, least in least_seconds.items()
                    if phase in self._seconds
                },
                stragglers_s=None if stragglers_s is None else round(stragglers_s, 4),
            )
        )
        self._logprob_gap = self._sampling = None
        self._seconds = {}
        self._verdicts, self._completions, self._kinds = [], (), ()

    def _note_unclassified(self, step: int, count: int) -> None:
        """Say once that completions in other languages are not among the refusal figures."""
        if count and not self._noted_unclassified:
            self._noted_unclassified = True
            text = f"step {step}: {unclassified_note(count, len(self._completions))}"
            self.emit(ev.Noticed(level="warning", source="refusals", text=text))

    def _zero_variance(self, logs: Mapping[str, float | None]) -> float | None:
        """Share of zero-variance groups. TRL's own metric covers the full batch if it scales by the batch."""
        groups: dict[int, set[float]] = {}
        for completion, verdict in zip(self._completions, self._verdicts, strict=False):
            if verdict.reward is not None:
                groups.setdefault(completion.group, set()).add(verdict.reward)
        if not groups:
            return _finite(logs.get("frac_reward_zero_std"))
        return sum(len(rewards) == 1 for rewards in groups.values()) / len(groups)

    def _judge_groups(self) -> tuple[ev.GroupVerdicts, ...]:
        """Figures of the verdicts on each group; empty without a judge."""
        if not self._judged_axes or len(self._completions) != len(self._verdicts):
            return ()
        groups: dict[int, list[tuple[str, Verdict]]] = {}
        for completion, verdict in zip(self._completions, self._verdicts, strict=True):
            groups.setdefault(completion.group, []).append((answer_of(completion.text), verdict))
        return tuple(group_verdicts(rows, self._judged_axes) for rows in groups.values())

    def _cross_check_figures(self) -> CrossCheckFigures:
        """Judge-independent figures of the step's completions."""
        if self._cross_check is None or len(self._completions) != len(self._verdicts):
            return CrossCheckFigures()
        rows = zip(self._completions, self._kinds, self._verdicts, strict=True)
        return self._cross_check.compute(
            [
                JudgedCompletion(
                    completion.group,
                    completion.prompt,
                    kind,
                    answer_of(completion.text),
                    completion.tokens - completion.thought_tokens,
                    verdict,
                )
                for completion, kind, verdict in rows
            ]
        )

    def _close_phase(self) -> None:
        now = self.clock()
        if self._phase is not None:
            spent = now - self._phase_started
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + spent
        self._phase_started = now


def _finite(value: float | None) -> float | None:
    """The value for an event; None if it is missing, not finite, or larger than an event field may be."""
    return float(value) if value is not None and abs(value) <= ev.MAX_NUMBER else None


def _lengths(logs: Mapping[str, float | None]) -> tuple[float, float, float] | None:
    figures = [_finite(logs.get(f"completions/{name}_length")) for name in ("mean", "min", "max")]
    mean, low, high = figures
    return None if mean is None or low is None or high is None else (mean, low, high)
