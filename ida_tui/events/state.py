"""What is known of a run: a pure fold over its events.

`fold(state, record)` is the only way a `RunState` comes about, so a run looks the same live, attached
and replayed from disk. Screens and printers read this and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, zip_longest
from typing import Any

from ida_tui.events import types as ev
from ida_tui.events.history import Series

MAX_NOTICES = 200
MAX_ALERTS = 500
STEP_PEAKS = 60
"""Of how many steps the peak of memory is kept."""
MEMORY_SAMPLES = 480
"""How many of the newest memory samples are kept: four minutes, at two a second."""
RECENT = 400
"""How many records the log keeps."""
LOGGED = (
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
"""What is worth a line in a log."""
FIGURES = ("step", "align", "risk", "detail", "r_ida", "skipped")
"""What is shown of every step at once."""
FIRST_STEPS = 3
LAST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of the current step; the verdict is null until it is in."""

    finished: ev.CompletionFinished
    scored: ev.CompletionScored | None = None


@dataclass(frozen=True, slots=True)
class JudgeTotals:
    """What the judge has done since the start of the run."""

    batches: int = 0
    calls: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    seconds: float = 0.0
    exposed_s: float = 0.0
    cost: float | None = 0.0
    """Null as soon as one call's price was not known."""
    declined: tuple[tuple[str, int], ...] = ()
    """Completions that the judge refused to look at, by the kind of their prompt."""
    last: ev.JudgeBatchFinished | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything a face of the program shows."""

    seq: int = -1
    """Of the last record folded in."""
    started_at: str = ""
    updated_at: str = ""
    run: ev.RunStarted | None = None
    phase: ev.Phase = "load"
    phase_since: str = ""
    step: int = 0
    """The step under way, from 1; 0 before the first."""
    rollout: ev.RolloutStarted | None = None
    """The prompts of the step under way."""
    streams: tuple[str, ...] = ()
    """Text of each row of the rollout so far; a row is group × generations + index."""
    generation: ev.TokensGenerated | None = None
    completions: tuple[Completion, ...] = ()
    """Completions of the step under way, or of the last one."""
    asking: ev.JudgeProgressed | None = None
    """How far the judge is with the step under way."""
    slowed: ev.JudgeSlowed | None = None
    """The last time that the judge turned calls away."""
    slowed_at: str = ""
    probes: tuple[ev.JudgeProbed, ...] = ()
    """The first probe of the judge, and the last."""
    steps: Series[ev.StepFinished] = field(default_factory=lambda: Series(figures=FIGURES))
    judge: JudgeTotals = field(default_factory=JudgeTotals)
    memory: ev.MemorySampled | None = None
    memory_recent: tuple[ev.MemorySampled, ...] = ()
    """The newest samples, oldest first."""
    memory_peak: int = 0
    """Largest `process` seen, in bytes."""
    system_peak: int = 0
    """Largest `system_used` seen, in bytes."""
    memory_by_phase: Mapping[ev.Phase, int] = field(default_factory=dict)
    """Most that was held in each phase, in bytes: by the process, or on CUDA's device."""
    recent: tuple[ev.Record, ...] = ()
    """The newest records worth a line in a log, oldest first."""
    notices: tuple[ev.Noticed, ...] = ()
    alerts: tuple[ev.AlertRaised, ...] = ()
    """The newest, oldest first."""
    alerted: int = 0
    """How many there were."""
    judged_since: int = 0
    """The step after which the present judge scores: what others said before does not compare."""
    step_peaks: tuple[int, ...] = ()
    """Most that the process held in each of the newest steps, in bytes, oldest first."""
    step_peak: int = 0
    """The same of the step under way, so far."""
    checkpoint: ev.CheckpointSaved | None = None
    before: ev.EvaluationFinished | None = None
    after: ev.EvaluationFinished | None = None
    pause: ev.RunPaused | None = None
    """Why the run is paused; null while it is not."""
    ended: ev.RunEnded | None = None

    @property
    def first_steps(self) -> tuple[ev.StepFinished, ...]:
        """The scored steps at the start that `RunEnded.r_ida_first` is the mean of."""
        return tuple(islice(_scored(self.steps), first_window(self._scored_steps)))

    @property
    def last_steps(self) -> tuple[ev.StepFinished, ...]:
        """The scored steps at the end that `RunEnded.r_ida_last` is the mean of."""
        newest = islice(_scored(reversed(self.steps)), last_window(self._scored_steps))
        return tuple(newest)[::-1]

    @property
    def _scored_steps(self) -> int:
        """How many steps are scored, as far as it matters for the first and the last ones."""
        enough = FIRST_STEPS * 2 + LAST_STEPS
        return sum(1 for _ in islice(_scored(self.steps), enough))

    @property
    def r_ida_first(self) -> float | None:
        """Mean R_IDA over `first_steps`."""
        return _mean_r_ida(self.first_steps)

    @property
    def r_ida_last(self) -> float | None:
        """Mean R_IDA over `last_steps`."""
        return _mean_r_ida(self.last_steps)

    def held_s(self, now: datetime) -> float:
        """Seconds for which the judge has asked to be left alone, from `now` (UTC) on."""
        if self.slowed is None or self.ended is not None:
            return 0.0
        since = (now - datetime.fromisoformat(self.slowed_at)).total_seconds()
        return max(0.0, self.slowed.seconds - since)

    @property
    def weight_delta(self) -> float:
        """Relative change of the trainable weights since the start."""
        return self.steps[-1].weight_delta if self.steps else 0.0


def first_window(scored: int) -> int:
    """How many steps "the first" are: 3, or the first half of a short run."""
    return min(FIRST_STEPS, max(1, scored // 2)) if scored else 0


def last_window(scored: int) -> int:
    """How many steps "the last" are: 5, or what a short run has beside the first ones."""
    return min(LAST_STEPS, max(1, scored - first_window(scored))) if scored else 0


def fold(state: RunState, record: ev.Record) -> RunState:
    """The state after one more record."""
    event = record.event

    def but(**changes: Any) -> RunState:
        started_at = state.started_at or record.time
        if isinstance(event, LOGGED):
            changes["recent"] = (*state.recent, record)[-RECENT:]
        return replace(
            state, seq=record.seq, updated_at=record.time, started_at=started_at, **changes
        )

    match event:
        case ev.RunStarted():
            return but(run=event)
        case ev.PhaseChanged():
            return but(**_phase_changed(state, event), phase_since=record.time)
        case ev.RolloutStarted():
            rows = len(event.prompts) * event.generations
            # A resumed run samples the step it was stopped in anew.
            return but(rollout=event, streams=("",) * rows, completions=(), asking=None)
        case ev.TextGenerated():
            texts = zip_longest(state.streams, event.texts, fillvalue="")
            return but(streams=tuple(before + more for before, more in texts))
        case ev.TokensGenerated():
            return but(generation=event)
        case ev.CompletionFinished():
            return but(completions=(*state.completions, Completion(event)))
        case ev.CompletionScored():
            return but(completions=_with_verdict(state.completions, event))
        case ev.JudgeBatchFinished():
            return but(judge=_add(state.judge, event))
        case ev.JudgeProgressed():
            return but(asking=event)
        case ev.JudgeSlowed():
            return but(slowed=event, slowed_at=record.time)
        case ev.JudgeProbed():
            judge = replace(state.judge, cost=_sum(state.judge.cost, event.cost))
            return but(probes=(*state.probes[:1], event), judge=judge)
        case ev.StepFinished():
            peaks = (*state.step_peaks, state.step_peak) if state.step_peak else state.step_peaks
            return but(steps=state.steps.plus(event), step_peaks=peaks[-STEP_PEAKS:], step_peak=0)
        case ev.MemorySampled():
            return but(
                memory=event,
                memory_recent=(*state.memory_recent, event)[-MEMORY_SAMPLES:],
                memory_peak=max(state.memory_peak, event.process, event.process_peak),
                memory_by_phase=_highest(state, event),
                step_peak=max(state.step_peak, event.process),
                system_peak=max(state.system_peak, event.system_used),
            )
        case ev.Noticed():
            return but(notices=(*state.notices, event)[-MAX_NOTICES:])
        case ev.AlertRaised():
            alerts = (*state.alerts, event)[-MAX_ALERTS:]
            return but(alerts=alerts, alerted=state.alerted + 1)
        case ev.CheckpointSaved():
            return but(checkpoint=event)
        case ev.EvaluationFinished():
            if event.when == "before":
                return but(before=event)
            judge = replace(state.judge, cost=_sum(state.judge.cost, event.cost))
            return but(after=event, judge=judge)
        case ev.RunPaused():
            return but(pause=event)
        case ev.RunResumed():
            kept = _until(state.steps, event.from_step)
            run, since = state.run, state.judged_since
            if run is not None and event.judge is not None:
                run, since = replace(run, judge=event.judge), event.from_step
            return but(
                pause=None, ended=None, steps=kept, run=run, judged_since=since, step_peaks=()
            )
        case ev.RunEnded():
            return but(ended=event)


def fold_all(records: Iterable[ev.Record], state: RunState | None = None) -> RunState:
    """The state after all the records, in order."""
    state = state or RunState()
    for record in records:
        state = fold(state, record)
    return state


def _phase_changed(state: RunState, event: ev.PhaseChanged) -> dict[str, Any]:
    changes: dict[str, Any] = {"step": event.step, "phase": event.phase, "pause": None}
    if event.phase == "generate":
        changes["generation"] = None
    if event.step != state.step:
        changes |= {"completions": (), "rollout": None, "streams": (), "asking": None}
    return changes


def held_by(run: ev.RunStarted | None, sample: ev.MemorySampled) -> int:
    """Bytes that the run holds where its plan counts them: in the process, or on CUDA's device.

    CUDA's memory is its own, and what its plan is about; Metal's is part of the process's.
    """
    if run is not None and run.device == "cuda":
        return (sample.device_tensors or 0) + (sample.device_cache or 0)
    return sample.process


def _highest(state: RunState, sample: ev.MemorySampled) -> Mapping[ev.Phase, int]:
    """The most that was held in each phase, with one more sample."""
    held = held_by(state.run, sample)
    if held <= state.memory_by_phase.get(sample.phase, 0):
        return state.memory_by_phase
    return {**state.memory_by_phase, sample.phase: held}


def _with_verdict(
    completions: tuple[Completion, ...], verdict: ev.CompletionScored
) -> tuple[Completion, ...]:
    return tuple(
        replace(completion, scored=verdict)
        if (completion.finished.group, completion.finished.index) == (verdict.group, verdict.index)
        else completion
        for completion in completions
    )


def _add(totals: JudgeTotals, batch: ev.JudgeBatchFinished) -> JudgeTotals:
    declined = Counter(dict(totals.declined)) + Counter(batch.declined)
    return JudgeTotals(
        batches=totals.batches + 1,
        calls=totals.calls + batch.calls,
        cached=totals.cached + batch.cached,
        failed=totals.failed + batch.failed,
        retries=totals.retries + batch.retries,
        seconds=totals.seconds + batch.seconds,
        exposed_s=totals.exposed_s + batch.exposed_s,
        cost=_sum(totals.cost, batch.cost),
        declined=tuple(sorted(declined.items())),
        last=batch,
    )


def _sum(one: float | None, other: float | None) -> float | None:
    """The sum of two costs, which is not known where one of them is not."""
    return None if one is None or other is None else one + other


def _scored(steps: Iterable[ev.StepFinished]) -> Iterator[ev.StepFinished]:
    return (step for step in steps if step.r_ida is not None)


def _until(steps: Series[ev.StepFinished], last: int) -> Series[ev.StepFinished]:
    """The steps up to this one, however they are ordered."""
    kept = [n for n, step in enumerate(steps.figures("step")) if step is not None and step <= last]
    if not kept or kept[-1] == len(kept) - 1:
        return steps.first(len(kept))
    return Series((steps[n] for n in kept), FIGURES)


def _mean_r_ida(steps: Iterable[ev.StepFinished]) -> float | None:
    values = [step.r_ida for step in steps if step.r_ida is not None]
    return sum(values) / len(values) if values else None
