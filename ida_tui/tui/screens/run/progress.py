"""Progress pane: phase, step, generation, and time of the run; its results at the end."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events import types as ev
from ida_tui.events.held_out import reward_change
from ida_tui.events.narration import DOWNLOADING, PHASE_LABELS, download_text
from ida_tui.events.state import RunState
from ida_tui.events.step_time import format_phases, step_time
from ida_tui.runs.postmortem import likely_cause
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines
from ida_tui.tui.widgets.bar import format_bar
from ida_tui.util.format import (
    format_clock,
    format_count,
    format_number,
    format_share,
    format_signed,
)

ESTIMATE_STEPS = 10
"""Number of latest steps from which the remaining time is estimated."""


class ProgressPane(Pane):
    """Phase, step, generation, and time while the run is in progress; then the result."""

    NAME, KEY = "Progress", "P"

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """At most three rows."""
        width = max(20, self.available_size[0])
        if run_view.error is not None:
            return join_lines(Content.assemble(("✗ ", "$text-error"), run_view.error.title))
        if run_view.viewed_state is not None:
            return render_viewed_step(state, run_view, width)
        if state.ended is not None:
            place = run_view.place or str(run_view.directory or "")
            return render_result(state, state.ended, place, width)
        if state.seq < 0:
            return render_starting(run_view, now)
        return join_lines(
            _render_steps(state, run_view, now, width),
            _render_generation(state, width),
            render_step_time(state, width),
        )


def render_starting(run_view: RunView, now: datetime) -> Content:
    """Shown before the first event, while the trainer's thread imports the libraries."""
    waited = (now - run_view.started_at).total_seconds() if run_view.started_at else 0.0
    return join_lines(
        Content.assemble(("starting", "bold"), f"  {format_clock(waited)}"),
        Content.assemble(("Loading PyTorch and TRL (about 15 s)…", "dim")),
    )


def estimate_remaining_s(state: RunState) -> float | None:
    """Estimated seconds of training left, from the latest steps; None before the first step.

    After a resume only the steps since then count, once there is one: another machine may train them.
    """
    if state.run is None or not state.steps:
        return None
    latest = state.steps[-ESTIMATE_STEPS:]
    since_resume = [step for step in latest if step.step > state.resumed_step]
    newest = [sum(step.seconds.values()) for step in since_resume or latest]
    return sum(newest) / len(newest) * max(0, state.run.steps - state.steps[-1].step)


def _render_steps(state: RunState, run_view: RunView, now: datetime, width: int) -> Content:
    run = state.run
    phase = PHASE_LABELS[state.phase] if state.download is None else DOWNLOADING
    if state.pause is not None:
        by_user = state.pause.by == "person"
        phase = "paused by you" if by_user else f"paused: {state.pause.reason}"
    elif run_view.stop_requested:
        phase = "stopping: saving a checkpoint"
    elif not run_view.in_progress:
        phase = f"died while {phase}: {likely_cause(state)}"
    done = state.steps[-1].step if state.steps else 0
    clock = format_clock(state.trained_seconds(now if run_view.in_progress else None) or 0.0)
    left = estimate_remaining_s(state)
    is_over = state.phase == "save" or (
        state.phase == "evaluate" and (run is None or not 0 < done < run.steps)
    )
    if left is not None and run_view.in_progress and not is_over:
        clock += f" · about {format_clock(left)} left"
        if state.evaluation_before is not None:
            clock += " + evaluation" if width >= 90 else " + eval"
    steps = f"step {max(1, state.step)}/{run.steps}" if run else "step –"
    share = done / max(1, run.steps) if run else 0.0
    room = width - len(phase) - len(steps) - len(clock) - 8
    middle = f" {format_bar(share, min(40, room))} " if room >= 6 else " "
    return Content.assemble((phase, "bold"), "  ", steps, (middle, "$text-accent"), f" {clock}")


def _render_generation(state: RunState, width: int) -> Content:
    made, download = state.evaluation_progress, state.download
    if download is not None:
        tail = download_text(download)
        room = min(40, width - len(tail) - 4)
        bar = f"{format_bar(download.done / max(1, download.total), room)} " if room >= 6 else ""
        return Content.assemble((bar, "$text-accent"), tail)
    if state.phase == "evaluate" and made is not None:
        tail = f"{made.answers}/{made.planned} answers to held-out prompts"
        room = min(40, width - len(tail) - 4)
        bar = f"{format_bar(made.answers / max(1, made.planned), room)} " if room >= 6 else ""
        return Content.assemble((bar, "$text-accent"), tail)
    progress = state.generation
    if state.phase != "generate" or progress is None:
        if not state.steps or state.phase not in ("judge", "reference", "update"):
            return Content("")
        if progress is None:
            return Content("")
        return Content.assemble(
            (
                f"generated {format_count(progress.rows, 'completion')} · {progress.tokens:,} tokens",
                "dim",
            ),
            (f" · {progress.tokens_per_s:,.0f} tok/s", "dim"),
        )
    count = f"{progress.rows_done}/{progress.rows} done"
    tail = f"{count} · {progress.tokens:,} tokens · {progress.tokens_per_s:,.0f} tok/s"
    room = min(40, width - len(tail) - 14)
    bar = f"{format_bar(progress.rows_done / max(1, progress.rows), room)} " if room >= 6 else ""
    return Content.assemble("completions ", (bar, "$text-accent"), tail)


def render_step_time(state: RunState, width: int) -> Content:
    """Where the time of the latest steps went, and what would save most of it, as far as there is room."""
    time = step_time(state)
    if time is None:
        return Content("")
    compared, phases = format_phases(time), format_phases(time, limits=False)
    texts = [compared, phases, f"{time.seconds:.1f} s"]
    if time.saving is not None:
        saving = f" · {time.saving.change} saves up to {time.saving.seconds:.1f} s"
        texts = [compared + saving, phases + saving, *texts]
    lines = [f"a step takes {text}" for text in texts]
    fitting = next((line for line in lines if len(line) <= width), lines[-1])
    return Content.assemble((fitting, "dim"))


def render_result(state: RunState, ended: ev.RunEnded, directory: str, width: int) -> Content:
    """The result of the run, worded as in the headless output."""
    good = ended.succeeded
    mark = ("✓ ", "$text-success") if good else ("✗ ", "$text-error")
    first = Content.assemble(
        mark, (ended.message, "bold"), f" · {format_clock(state.trained_seconds())}"
    )
    if ended.reward_first is not None and ended.reward_last is not None:
        change = format_signed(ended.reward_last - ended.reward_first, 3)
        first += Content.assemble(
            f" · {state.reward_name} ",
            (f"{format_number(ended.reward_first)} → {format_number(ended.reward_last)}", "bold"),
            f" ({change})",
        )
    second = Content(ended.hint.splitlines()[0] if ended.hint and not good else "")
    before, after = state.evaluation_before, state.evaluation_after
    if before is not None and after is not None and not (before.harmless or before.unsafe):
        if reward := reward_change(before, after, state.reward_name):
            long = width >= 90
            interval = f"{format_signed(reward.low, 3)} to {format_signed(reward.high, 3)}"
            second = Content.assemble(
                f"held-out prompts: {state.reward_name} " if long else "held-out: ",
                (f"{format_number(reward.before)} → {format_number(reward.after)}", "bold"),
                f" (95% interval of the change {interval})" if long else f" ({interval})",
            )
    elif before is not None and after is not None:
        long = width >= 90
        second = Content.assemble(
            "held-out prompts: " if long else "held-out: ",
            "harmless answered " if long else "answered ",
            (
                _share_change(before.harmless_complied, after.harmless_complied, before.harmless),
                "bold",
            ),
            " · unsafe declined " if long else " · declined ",
            (_share_change(before.unsafe_refused, after.unsafe_refused, before.unsafe), "bold"),
        )
    third = Content.assemble((f"{directory} · 3: completions · 1: launch", "dim"))
    return join_lines(first, second, third)


def _share_change(before: int, after: int, total: int) -> str:
    return (
        f"{format_share(before, total)} → {format_share(after, total)}" if total else "no prompts"
    )


def render_viewed_step(state: RunState, run_view: RunView, width: int) -> Content:
    """The viewed step, and how to return to the latest one."""
    step = state.steps[-1].step if state.steps else 0
    newest = run_view.state.steps[-1].step if run_view.state.steps else 0
    bar = format_bar(step / max(1, newest), min(40, max(6, width - 56)))
    return join_lines(
        Content.assemble(("viewing", "bold"), f"  step {step} of {newest} ", (bar, "$text-accent")),
        Content.assemble(("[ previous step · ] next step · \\ latest step", "dim")),
    )
