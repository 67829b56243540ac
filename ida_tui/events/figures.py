"""Figures that arrive in every step: finished steps, judge batches and memory samples, folded many at once.

A run of 10,000 steps has tens of thousands of them. Folding a series copies the state once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ida_tui.events import types as ev
from ida_tui.events.judge_totals import add_judge_batches
from ida_tui.events.memory_peaks import update_phase_peaks
from ida_tui.util.replace import replace

if TYPE_CHECKING:
    from ida_tui.events.state import RunState

FigureEvent: TypeAlias = ev.StepFinished | ev.JudgeBatchFinished | ev.MemorySampled
FIGURE_EVENTS = (ev.StepFinished, ev.JudgeBatchFinished, ev.MemorySampled)
MAX_LOG_RECORDS = 400
"""Number of log records that are stored."""
MAX_STEP_PEAKS = 60
"""Number of steps whose memory peak is stored."""
MAX_MEMORY_SAMPLES = 480
"""Number of memory samples that are stored: four minutes at two samples per second."""


def add_figures(state: RunState, records: Sequence[ev.Record]) -> RunState:
    """The state after these records, in order.

    Args:
        state: the state before them.
        records: at least one record; all events are `FIGURE_EVENTS`.
    """
    steps: list[ev.StepFinished] = []
    batches: list[ev.JudgeBatchFinished] = []
    samples: list[ev.MemorySampled] = []
    log_records: list[ev.Record] = []
    step_peaks: list[int] = []
    peak, system_peak = state.memory_peak, state.system_peak
    by_phase, step_peak = state.memory_by_phase, state.current_step_peak
    any_step = len(state.steps) > 0
    for record in records:
        event = record.event
        if isinstance(event, ev.MemorySampled):
            samples.append(event)
            peak = max(peak, event.process, event.process_peak)
            system_peak = max(system_peak, event.system_used)
            by_phase = update_phase_peaks(by_phase, state.run, event)
            # An evaluation between two steps belongs to neither.
            if not (any_step and event.phase == "evaluate"):
                step_peak = max(step_peak, event.process)
        elif isinstance(event, ev.JudgeBatchFinished):
            batches.append(event)
        elif isinstance(event, ev.StepFinished):
            steps.append(event)
            log_records.append(record)
            if step_peak:
                step_peaks.append(step_peak)
            any_step, step_peak = True, 0
    # A step that finishes shows that an older run was resumed without an event.
    resumed = bool(steps) and state.ended is None
    last = records[-1]
    return replace(
        state,
        seq=last.seq,
        started_at=state.started_at or records[0].time,
        updated_at=last.time,
        log_records=(*state.log_records, *log_records)[-MAX_LOG_RECORDS:],
        steps=state.steps.with_items(steps),
        judge=add_judge_batches(state.judge, batches),
        memory=samples[-1] if samples else state.memory,
        memory_samples=(*state.memory_samples, *samples)[-MAX_MEMORY_SAMPLES:],
        memory_peak=peak,
        system_peak=system_peak,
        memory_by_phase=by_phase,
        step_peaks=(*state.step_peaks, *step_peaks)[-MAX_STEP_PEAKS:],
        current_step_peak=step_peak,
        inactive_since="" if resumed else state.inactive_since,
    )
