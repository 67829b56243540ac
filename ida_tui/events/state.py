"""State of one training run, computed from its events by a pure function.

Only `fold(state, record)` creates a new `RunState`, so a run looks the same live, attached and replayed
from disk. Screens and printers read nothing but this state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, zip_longest
from typing import TypedDict

from ida_tui.events import types as ev
from ida_tui.events.history import PackedHistory
from ida_tui.util.statistics import mean_of_known

MAX_NOTICES = 200
MAX_ALERTS = 500
MAX_STEP_PEAKS = 60
"""Number of steps whose memory peak is stored."""
MAX_MEMORY_SAMPLES = 480
"""Number of memory samples that are stored: four minutes at two samples per second."""
MAX_LOG_RECORDS = 400
"""Number of log records that are stored."""
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
STEP_COLUMNS = ("step", "align", "risk", "detail", "r_ida", "skipped")
"""Figures of the steps that can be read without unpacking old steps."""
FIRST_STEPS = 3
LAST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of the current step; `scored` is None until its verdict arrives."""

    finished: ev.CompletionFinished
    scored: ev.CompletionScored | None = None


@dataclass(frozen=True, slots=True)
class JudgeTotals:
    """Totals of the judge since the start of the run."""

    batches: int = 0
    calls: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    seconds: float = 0.0
    exposed_s: float = 0.0
    cost: float | None = 0.0
    """None if the price of at least one call is unknown."""
    declined: tuple[tuple[str, int], ...] = ()
    """Number of completions that the judge refused to score, by kind of prompt."""
    last: ev.JudgeBatchFinished | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything about a run that screens and printers show."""

    seq: int = -1
    """Sequence number of the last folded record."""
    started_at: str = ""
    updated_at: str = ""
    run: ev.RunStarted | None = None
    phase: ev.Phase = "load"
    phase_since: str = ""
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
        default_factory=lambda: PackedHistory(columns=STEP_COLUMNS)
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
    judge_since_step: int = 0
    """The last step before the current judge took over; scores of earlier judges are not comparable."""
    step_peaks: tuple[int, ...] = ()
    """Peak memory of the process in each of the newest steps, in bytes, oldest first."""
    current_step_peak: int = 0
    """Peak memory of the process in the current step so far, in bytes."""
    checkpoint: ev.CheckpointSaved | None = None
    evaluation_before: ev.EvaluationFinished | None = None
    evaluation_after: ev.EvaluationFinished | None = None
    pause: ev.RunPaused | None = None
    """The event that paused the run; None while it is not paused."""
    ended: ev.RunEnded | None = None

    @property
    def first_steps(self) -> tuple[ev.StepFinished, ...]:
        """The first scored steps; `RunEnded.r_ida_first` is their mean."""
        return tuple(islice(_only_scored(self.steps), first_window(self._scored_steps)))

    @property
    def last_steps(self) -> tuple[ev.StepFinished, ...]:
        """The last scored steps; `RunEnded.r_ida_last` is their mean."""
        newest = islice(_only_scored(reversed(self.steps)), last_window(self._scored_steps))
        return tuple(newest)[::-1]

    @property
    def _scored_steps(self) -> int:
        """Number of scored steps, counted only as far as `first_window` and `last_window` need it."""
        enough = FIRST_STEPS * 2 + LAST_STEPS
        return sum(1 for _ in islice(_only_scored(self.steps), enough))

    @property
    def r_ida_first(self) -> float | None:
        """Mean R_IDA over `first_steps`."""
        return mean_of_known(step.r_ida for step in self.first_steps)

    @property
    def r_ida_last(self) -> float | None:
        """Mean R_IDA over `last_steps`."""
        return mean_of_known(step.r_ida for step in self.last_steps)

    def pass_r_ida(self, steps: int) -> float | None:
        """Mean R_IDA over the newest `steps` steps, which pass through all prompts.

        None if the current judge has scored fewer steps, or fewer than half of them have scores.
        """
        numbers, rewards = self.steps.column("step"), self.steps.column("r_ida")
        if len(numbers) < steps or int(numbers[-steps] or 0) <= self.judge_since_step:
            return None
        return mean_of_known(rewards[-steps:], minimum=(steps + 1) // 2)

    def rate_limit_wait_s(self, now: datetime) -> float:
        """Remaining seconds until the judge accepts calls again, counted from `now` (UTC)."""
        if self.judge_slowdown is None or self.ended is not None:
            return 0.0
        elapsed = (now - datetime.fromisoformat(self.judge_slowdown_at)).total_seconds()
        return max(0.0, self.judge_slowdown.seconds - elapsed)

    @property
    def weight_delta(self) -> float:
        """Relative change of the trainable weights since the start."""
        return self.steps[-1].weight_delta if self.steps else 0.0


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
            return replace(state, **header, run=event)
        case ev.PhaseChanged():
            same_step = event.step == state.step
            return replace(
                state,
                **header,
                step=event.step,
                phase=event.phase,
                phase_since=record.time,
                pause=None,
                generation=None if event.phase == "generate" else state.generation,
                completions=state.completions if same_step else (),
                rollout=state.rollout if same_step else None,
                streams=state.streams if same_step else (),
                judge_progress=state.judge_progress if same_step else None,
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
        case ev.JudgeBatchFinished():
            return replace(state, **header, judge=_add_judge_batch(state.judge, event))
        case ev.JudgeProgressed():
            return replace(state, **header, judge_progress=event)
        case ev.JudgeSlowed():
            return replace(state, **header, judge_slowdown=event, judge_slowdown_at=record.time)
        case ev.JudgeProbed():
            judge = replace(state.judge, cost=_sum_costs(state.judge.cost, event.cost))
            return replace(
                state, **header, judge_probes=(*state.judge_probes[:1], event), judge=judge
            )
        case ev.StepFinished():
            peaks = (
                (*state.step_peaks, state.current_step_peak)
                if state.current_step_peak
                else state.step_peaks
            )
            return replace(
                state,
                **header,
                steps=state.steps.with_item(event),
                step_peaks=peaks[-MAX_STEP_PEAKS:],
                current_step_peak=0,
            )
        case ev.MemorySampled():
            return replace(
                state,
                **header,
                memory=event,
                memory_samples=(*state.memory_samples, event)[-MAX_MEMORY_SAMPLES:],
                memory_peak=max(state.memory_peak, event.process, event.process_peak),
                memory_by_phase=_update_phase_peaks(state, event),
                current_step_peak=max(state.current_step_peak, event.process),
                system_peak=max(state.system_peak, event.system_used),
            )
        case ev.Noticed():
            return replace(state, **header, notices=(*state.notices, event)[-MAX_NOTICES:])
        case ev.AlertRaised():
            alerts = (*state.alerts, event)[-MAX_ALERTS:]
            return replace(state, **header, alerts=alerts, alert_count=state.alert_count + 1)
        case ev.CheckpointSaved():
            return replace(state, **header, checkpoint=event)
        case ev.EvaluationFinished():
            if event.when == "before":
                return replace(state, **header, evaluation_before=event)
            judge = replace(state.judge, cost=_sum_costs(state.judge.cost, event.cost))
            return replace(state, **header, evaluation_after=event, judge=judge)
        case ev.RunPaused():
            return replace(state, **header, pause=event)
        case ev.RunResumed():
            steps = _steps_until(state.steps, event.from_step)
            run, judged_since = state.run, state.judge_since_step
            if run is not None and event.judge is not None:
                run, judged_since = replace(run, judge=event.judge), event.from_step
            return replace(
                state,
                **header,
                pause=None,
                ended=None,
                steps=steps,
                run=run,
                judge_since_step=judged_since,
                step_peaks=(),
            )
        case ev.RunEnded():
            return replace(state, **header, ended=event)


def fold_all(records: Iterable[ev.Record], state: RunState | None = None) -> RunState:
    """The state after all records, folded in order."""
    state = state or RunState()
    for record in records:
        state = fold(state, record)
    return state


def run_memory(run: ev.RunStarted | None, sample: ev.MemorySampled) -> int:
    """Memory of the run in bytes, as its memory plan counts it.

    With CUDA the plan counts the memory of the device; on other devices, including Metal, it counts the
    memory of the process.
    """
    if run is not None and run.device == "cuda":
        return (sample.device_tensors or 0) + (sample.device_cache or 0)
    return sample.process


def _update_phase_peaks(state: RunState, sample: ev.MemorySampled) -> Mapping[ev.Phase, int]:
    """Peak memory of each phase, updated with one more sample."""
    used = run_memory(state.run, sample)
    if used <= state.memory_by_phase.get(sample.phase, 0):
        return state.memory_by_phase
    return {**state.memory_by_phase, sample.phase: used}


def _attach_verdict(
    completions: tuple[Completion, ...], verdict: ev.CompletionScored
) -> tuple[Completion, ...]:
    return tuple(
        replace(completion, scored=verdict)
        if (completion.finished.group, completion.finished.index) == (verdict.group, verdict.index)
        else completion
        for completion in completions
    )


def _add_judge_batch(totals: JudgeTotals, batch: ev.JudgeBatchFinished) -> JudgeTotals:
    declined = Counter(dict(totals.declined)) + Counter(batch.declined)
    return JudgeTotals(
        batches=totals.batches + 1,
        calls=totals.calls + batch.calls,
        cached=totals.cached + batch.cached,
        failed=totals.failed + batch.failed,
        retries=totals.retries + batch.retries,
        seconds=totals.seconds + batch.seconds,
        exposed_s=totals.exposed_s + batch.exposed_s,
        cost=_sum_costs(totals.cost, batch.cost),
        declined=tuple(sorted(declined.items())),
        last=batch,
    )


def _sum_costs(first: float | None, second: float | None) -> float | None:
    """The sum of two costs; None if one of them is unknown."""
    return None if first is None or second is None else first + second


def _only_scored(steps: Iterable[ev.StepFinished]) -> Iterator[ev.StepFinished]:
    return (step for step in steps if step.r_ida is not None)


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
    return PackedHistory((steps[position] for position in positions), STEP_COLUMNS)
