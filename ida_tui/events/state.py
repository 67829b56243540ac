"""State of one training run, computed from its events by a pure function.

Only `fold(state, record)` creates a new `RunState`, so a run looks the same live, attached and replayed
from disk. Screens and printers read nothing but this state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice, zip_longest
from typing import TypedDict

from ida_tui.config.scoring.axes import IDA_AXES, IDA_REWARD, Axis
from ida_tui.events import types as ev
from ida_tui.events.active_time import resumed_times, seconds_between
from ida_tui.events.figures import FIGURE_EVENTS, MAX_LOG_RECORDS, add_figures
from ida_tui.events.held_out import evaluations_until, in_order, without_prompts
from ida_tui.events.history import PackedHistory
from ida_tui.events.judge_totals import JudgeTotals, add_evaluation, with_cost
from ida_tui.events.scoring import ScoringPeriod, continue_scoring
from ida_tui.events.weight_change import WeightMovement, weight_movement
from ida_tui.util.replace import replace
from ida_tui.util.statistics import mean_of_known

MAX_NOTICES = 200
MAX_ALERTS = 500
LOG_EVENTS = (
    ev.RunStarted,
    ev.Noticed,
    ev.StepFinished,
    ev.EvaluationFinished,
    ev.CheckpointSaved,
    ev.AlertRaised,
    ev.JudgeSlowed,
    ev.RunPaused,
    ev.RunResumed,
    ev.RunEnded,
)
"""Event types that are shown in the log."""
STEP_COLUMNS = (
    "step",
    "reward",
    "skipped",
    "logprob_gap",
    "reused_step",
)
"""Figures of the steps that can be read without unpacking old steps."""
GAP_STEPS = 100
"""Latest steps in which `logprob_gap` looks for a value."""
FIRST_STEPS = 3
LAST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of the current step; `scored` is None until its verdict arrives."""

    finished: ev.CompletionFinished
    scored: ev.CompletionScored | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything about a run that screens and printers show."""

    seq: int = -1
    """Sequence number of the last folded record."""
    started_at: str = ""
    updated_at: str = ""
    run: ev.RunStarted | None = None
    run_ids: tuple[str, ...] = ()
    """Names of its directory at its starts; the first one identifies the run, also after it was renamed."""
    phase: ev.Phase = "load"
    phase_since: str = ""
    download: ev.DownloadProgress | None = None
    """Progress of the model's download; None while nothing is downloaded."""
    step: int = 0
    """The current step, starting at 1; 0 before the first step."""
    rollout: ev.RolloutStarted | None = None
    """The prompts of the current step."""
    streams: tuple[str, ...] = ()
    """Text of each row of the rollout so far; a row is group × generations + index."""
    generation: ev.TokensGenerated | None = None
    completions: tuple[Completion, ...] = ()
    """Completions of the current step, or of the previous one until new ones arrive."""
    judge_progress: ev.JudgeProgressed | None = None
    """Progress of the judge in the current step."""
    judge_slowdown: ev.JudgeSlowed | None = None
    """The most recent rejection of calls by the judge."""
    judge_slowdown_at: str = ""
    judge_probes: tuple[ev.JudgeProbed, ...] = ()
    """The first and the most recent drift probe of the judge."""
    steps: PackedHistory[ev.StepFinished] = field(
        default_factory=lambda: PackedHistory(columns=STEP_COLUMNS, scores_of="scores")
    )
    judge: JudgeTotals = field(default_factory=JudgeTotals)
    memory: ev.MemorySampled | None = None
    memory_samples: tuple[ev.MemorySampled, ...] = ()
    """The newest samples, oldest first."""
    memory_peak: int = 0
    """Largest `process` seen, in bytes."""
    system_peak: int = 0
    """Largest `system_used` seen, in bytes."""
    memory_by_phase: Mapping[ev.Phase, int] = field(default_factory=dict)
    """Peak memory in each phase, in bytes: of the process, or of the device with CUDA."""
    log_records: tuple[ev.Record, ...] = ()
    """The newest log records, oldest first."""
    notices: tuple[ev.Noticed, ...] = ()
    alerts: tuple[ev.AlertRaised, ...] = ()
    """The newest alerts, oldest first."""
    alert_count: int = 0
    """Number of all alerts, including those that are no longer in `alerts`."""
    scoring: tuple[ScoringPeriod, ...] = ()
    """The periods in which completions were scored in the same way, oldest first."""
    step_peaks: tuple[int, ...] = ()
    """Peak memory of the process in each of the newest steps, in bytes, oldest first."""
    current_step_peak: int = 0
    """Peak memory of the process in the current step so far, in bytes."""
    checkpoint: ev.CheckpointSaved | None = None
    evaluation_before: ev.EvaluationFinished | None = None
    evaluations_during: tuple[ev.EvaluationFinished, ...] = ()
    """Evaluations between two steps, in the order of the steps, without their figures of each prompt."""
    evaluation_after: ev.EvaluationFinished | None = None
    evaluation_progress: ev.EvaluationProgressed | None = None
    """Progress of the evaluation in the phase `evaluate`."""
    pause: ev.RunPaused | None = None
    """The event that paused the run; None while it is not paused."""
    ended: ev.RunEnded | None = None
    inactive_since: str = ""
    """When the run was paused or ended; empty while it is active."""
    inactive_s: float = 0.0
    """Seconds since the start in which the run was paused, or no process trained it, until it was resumed."""
    paused_s: float = 0.0
    """The part of `inactive_s` between a pause and its end."""
    resumed_at: str = ""
    """When the run was last resumed; empty if it never was."""
    resumed_step: int = 0
    """The last finished step when the run was last resumed."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes on which the run's completions are scored, in order."""
        return self.run.axes if self.run else IDA_AXES

    @property
    def reward_name(self) -> str:
        """Name of the run's reward."""
        return self.run.reward if self.run else IDA_REWARD

    @property
    def evaluations(self) -> tuple[ev.EvaluationFinished, ...]:
        """All evaluations on the held-out prompts, in the order of the steps."""
        return in_order(self.evaluation_before, self.evaluations_during, self.evaluation_after)

    @property
    def logprob_gap(self) -> float | None:
        """The newest `StepFinished.logprob_gap`; None if no recent step was checked."""
        gaps = self.steps.column("logprob_gap")
        newest = (gaps[-back] for back in range(1, min(len(gaps), GAP_STEPS) + 1))
        return next((gap for gap in newest if gap is not None), None)

    @property
    def scored_since_step(self) -> int:
        """The last step before the current scoring period; earlier scores are not comparable."""
        return self.scoring[-1].after_step if self.scoring else 0

    @property
    def scoring_start(self) -> int:
        """Position in `steps` of the first step of the current scoring period."""
        return bisect_right(
            self.steps.column("step"), self.scored_since_step, key=lambda step: int(step or 0)
        )

    @property
    def first_steps(self) -> tuple[ev.StepFinished, ...]:
        """The first scored steps of the current scoring period; `RunEnded.reward_first` is their mean."""
        steps = map(self.steps.__getitem__, range(self.scoring_start, len(self.steps)))
        return tuple(islice(_only_scored(steps), first_window(self._scored_steps)))

    @property
    def last_steps(self) -> tuple[ev.StepFinished, ...]:
        """The last scored steps of the current scoring period; `RunEnded.reward_last` is their mean."""
        newest = islice(_only_scored(self._newest_steps()), last_window(self._scored_steps))
        return tuple(newest)[::-1]

    def _newest_steps(self) -> Iterator[ev.StepFinished]:
        """The steps of the current scoring period, newest first."""
        return map(self.steps.__getitem__, range(len(self.steps) - 1, self.scoring_start - 1, -1))

    @property
    def _scored_steps(self) -> int:
        """Number of scored steps, counted only as far as `first_window` and `last_window` need it."""
        enough = FIRST_STEPS * 2 + LAST_STEPS
        return sum(1 for _ in islice(_only_scored(self._newest_steps()), enough))

    @property
    def reward_first(self) -> float | None:
        """Mean reward over `first_steps`."""
        return mean_of_known(step.reward for step in self.first_steps)

    @property
    def reward_last(self) -> float | None:
        """Mean reward over `last_steps`."""
        return mean_of_known(step.reward for step in self.last_steps)

    def pass_reward(self, steps: int) -> float | None:
        """Mean reward over the newest `steps` steps, which pass through all prompts.

        None if the current scoring period has fewer steps, or fewer than half of the rollouts have scores.
        """
        if len(self.steps) - self.scoring_start < steps:
            return None
        rewards, reused = self.steps.column("reward"), self.steps.column("reused_step")
        newest = [n for n in range(len(self.steps) - steps, len(self.steps)) if reused[n] is None]
        return mean_of_known((rewards[n] for n in newest), minimum=(len(newest) + 1) // 2)

    @property
    def newest_rollout(self) -> ev.StepFinished | None:
        """The newest finished step that generated its completions; None if there is none."""
        reused = self.steps.column("reused_step")
        generated = (n for n in range(len(self.steps) - 1, -1, -1) if reused[n] is None)
        position = next(generated, None)
        return None if position is None else self.steps[position]

    def rate_limit_wait_s(self, now: datetime) -> float:
        """Remaining seconds until the judge accepts calls again, counted from `now` (UTC)."""
        if self.judge_slowdown is None or self.ended is not None:
            return 0.0
        elapsed = (now - datetime.fromisoformat(self.judge_slowdown_at)).total_seconds()
        return max(0.0, self.judge_slowdown.seconds - elapsed)

    def trained_seconds(self, now: datetime | None = None) -> float | None:
        """Time of training in seconds, without pauses and without the time between a stop and a resume.

        Args:
            now: the current time (UTC), for a run in progress; None counts up to the last event.

        Returns:
            The seconds; None if the times of the events are unknown.
        """
        if self.ended is not None:
            if self.ended.paused_s is not None:
                return self.ended.seconds
            # An older run: its duration includes the pauses.
            if (without_pauses := self.ended.seconds - self.paused_s) > 0 or not self.paused_s:
                return without_pauses
        end = self.inactive_since or (now.isoformat() if now else self.updated_at)
        span = seconds_between(self.started_at, end)
        return None if span is None else max(0.0, span - self.inactive_s)

    @property
    def weight_delta(self) -> float:
        """Relative change of the trainable weights since the start."""
        return self.steps[-1].weight_delta if self.steps else 0.0

    @property
    def model_change(self) -> float | None:
        """Relative change of the model's weights since the start; None if the run did not record it."""
        return self.steps[-1].model_change if self.steps else None

    @property
    def weight_movement(self) -> WeightMovement | None:
        """The change of the weights, for a reader; None before the first step."""
        if not self.steps:
            return None
        return weight_movement(self.steps[-1], self.run.method if self.run else "lora")


def first_window(scored: int) -> int:
    """Number of steps that count as the first steps: 3, or the first half of a short run."""
    return min(FIRST_STEPS, max(1, scored // 2)) if scored else 0


def last_window(scored: int) -> int:
    """Number of steps that count as the last steps: 5, or all but the first steps of a short run."""
    return min(LAST_STEPS, max(1, scored - first_window(scored))) if scored else 0


class _Header(TypedDict):
    """Fields of `RunState` that every record changes."""

    seq: int
    started_at: str
    updated_at: str
    log_records: tuple[ev.Record, ...]


def fold(state: RunState, record: ev.Record) -> RunState:
    """The state after one more record."""
    event = record.event
    if isinstance(event, FIGURE_EVENTS):
        return add_figures(state, (record,))
    log_records = state.log_records
    if isinstance(event, LOG_EVENTS):
        log_records = (*log_records, record)[-MAX_LOG_RECORDS:]
    header: _Header = {
        "seq": record.seq,
        "started_at": state.started_at or record.time,
        "updated_at": record.time,
        "log_records": log_records,
    }
    match event:
        case ev.RunStarted():
            step = state.steps[-1].step if state.steps else 0
            scoring = ScoringPeriod(step, event.judge, event.scoring)
            run_ids = tuple(dict.fromkeys((*state.run_ids, event.run_id)))
            return replace(_with_scoring(state, scoring), **header, run=event, run_ids=run_ids)
        case ev.PhaseChanged():
            # A step that starts with its update reuses the completions of the step before.
            same_rollout = event.step == state.step or event.phase == "update"
            return replace(
                state,
                **header,
                step=event.step,
                phase=event.phase,
                phase_since=record.time,
                download=event.download,
                pause=None,
                generation=None if event.phase == "generate" else state.generation,
                completions=state.completions if same_rollout else (),
                rollout=state.rollout if same_rollout else None,
                streams=state.streams if same_rollout else (),
                judge_progress=state.judge_progress if same_rollout else None,
                evaluation_progress=None,
            )
        case ev.RolloutStarted():
            rows = len(event.prompts) * event.generations
            # A resumed run repeats the interrupted step, so the text streams start empty.
            return replace(
                state,
                **header,
                rollout=event,
                streams=("",) * rows,
                completions=(),
                judge_progress=None,
            )
        case ev.TextGenerated():
            texts = zip_longest(state.streams, event.texts, fillvalue="")
            return replace(state, **header, streams=tuple(text + added for text, added in texts))
        case ev.TokensGenerated():
            return replace(state, **header, generation=event)
        case ev.CompletionFinished():
            return replace(state, **header, completions=(*state.completions, Completion(event)))
        case ev.CompletionScored():
            return replace(state, **header, completions=_attach_verdict(state.completions, event))
        case ev.JudgeProgressed():
            return replace(state, **header, judge_progress=event)
        case ev.JudgeSlowed():
            judge, at = replace(state.judge, slowed_after=state.judge.batches), record.time
            return replace(state, **header, judge=judge, judge_slowdown=event, judge_slowdown_at=at)
        case ev.JudgeProbed():
            judge = with_cost(state.judge, event.judge_cost, event.cost)
            return replace(
                state, **header, judge_probes=(*state.judge_probes[:1], event), judge=judge
            )
        case ev.Noticed():
            lost_s = 0.0 if state.inactive_since else event.lost_s
            return replace(
                state,
                **header,
                notices=(*state.notices, event)[-MAX_NOTICES:],
                inactive_s=state.inactive_s + lost_s,
            )
        case ev.AlertRaised():
            alerts = (*state.alerts, event)[-MAX_ALERTS:]
            return replace(state, **header, alerts=alerts, alert_count=state.alert_count + 1)
        case ev.CheckpointSaved():
            return replace(state, **header, checkpoint=event)
        case ev.EvaluationProgressed():
            return replace(state, **header, evaluation_progress=event)
        case ev.EvaluationFinished():
            if event.when == "before":
                return replace(state, **header, evaluation_before=event)
            judge = add_evaluation(state.judge, event)
            if event.when == "during":
                during = (
                    *evaluations_until(state.evaluations_during, event.step - 1),
                    without_prompts(event),
                )
                return replace(state, **header, evaluations_during=during, judge=judge)
            return replace(state, **header, evaluation_after=event, judge=judge)
        case ev.RunPaused():
            since = state.inactive_since or record.time
            judge = with_cost(state.judge, event.judge_cost)
            return replace(state, **header, pause=event, inactive_since=since, judge=judge)
        case ev.RunResumed():
            steps = _steps_until(state.steps, event.from_step)
            if event.judge is not None:
                run = None if state.run is None else replace(state.run, judge=event.judge)
                scoring = ScoringPeriod(event.from_step, event.judge, event.scoring)
                state = replace(_with_scoring(state, scoring), run=run)
            elif state.scoring:
                state = _with_scoring(state, replace(state.scoring[-1], after_step=event.from_step))
            return replace(
                state,
                **header,
                **resumed_times(state, record.time),
                pause=None,
                ended=None,
                resumed_step=steps[-1].step if steps else 0,
                steps=steps,
                evaluations_during=evaluations_until(state.evaluations_during, event.from_step),
                step_peaks=(),
                judge=replace(with_cost(state.judge, event.judge_cost), recent=()),
            )
        case ev.RunEnded():
            paused_s = 0.0
            if state.inactive_since and state.ended is None:
                paused_s = seconds_between(state.inactive_since, record.time) or 0.0
            return replace(
                state,
                **header,
                ended=event,
                inactive_since=state.inactive_since or record.time,
                paused_s=state.paused_s + paused_s,
                judge=with_cost(state.judge, event.judge_cost),
            )


def fold_all(records: Iterable[ev.Record], state: RunState | None = None) -> RunState:
    """The state after all records, folded in order."""
    state = state or RunState()
    for are_figures, series in groupby(records, _is_figure):
        if are_figures:
            state = add_figures(state, tuple(series))
        else:
            for record in series:
                state = fold(state, record)
    return state


def _is_figure(record: ev.Record) -> bool:
    return isinstance(record.event, FIGURE_EVENTS)


def _attach_verdict(
    completions: tuple[Completion, ...], verdict: ev.CompletionScored
) -> tuple[Completion, ...]:
    return tuple(
        replace(completion, scored=verdict)
        if (completion.finished.group, completion.finished.index) == (verdict.group, verdict.index)
        else completion
        for completion in completions
    )


def _with_scoring(state: RunState, latest: ScoringPeriod) -> RunState:
    """The state of a run that continues with this scoring; a new judge gets a new first drift probe."""
    periods = continue_scoring(state.scoring, latest)
    changed = bool(state.scoring) and not state.scoring[-1].same_scoring(periods[-1])
    return replace(state, scoring=periods, judge_probes=() if changed else state.judge_probes)


def _only_scored(steps: Iterable[ev.StepFinished]) -> Iterator[ev.StepFinished]:
    return (step for step in steps if step.reward is not None)


def _steps_until(
    steps: PackedHistory[ev.StepFinished], last: int
) -> PackedHistory[ev.StepFinished]:
    """The steps with a number up to `last`, in any order of numbers."""
    positions = [
        position
        for position, step in enumerate(steps.column("step"))
        if step is not None and step <= last
    ]
    if not positions or positions[-1] == len(positions) - 1:
        return steps.prefix(len(positions))
    return PackedHistory((steps[position] for position in positions), STEP_COLUMNS, "scores")
