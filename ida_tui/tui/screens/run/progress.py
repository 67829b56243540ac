"""How far the run is, and at its end what became of it."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events import types as ev
from ida_tui.events.narration import PHASES
from ida_tui.events.state import RunState
from ida_tui.runs.postmortem import likely_cause
from ida_tui.tui.run_view.watched import Watched
from ida_tui.tui.screens.run.pane import Pane, lines, seconds_since
from ida_tui.tui.widgets import format as words

RECENT_STEPS = 10
"""The remaining time is guessed from so many of the newest steps."""


class ProgressPane(Pane):
    """Phase, step, generation and time; then the result."""

    NAME, KEY = "Progress", "P"

    def text(self, state: RunState, watched: Watched, now: datetime) -> Content:
        """Three rows at most."""
        width = max(20, self.room[0])
        if watched.refusal is not None:
            return lines(Content.assemble(("✗ ", "$text-error"), watched.refusal.title))
        if watched.viewed is not None:
            return looking_back(state, watched, width)
        if state.ended is not None:
            return result(state, state.ended, str(watched.directory or ""), width)
        if state.seq < 0:
            return starting(watched, now)
        return lines(_steps(state, watched, now, width), _generation(state, width))


def starting(watched: Watched, now: datetime) -> Content:
    """Before the first event: the libraries are being imported, in the trainer's thread."""
    waited = (now - watched.begun).total_seconds() if watched.begun else 0.0
    return lines(
        Content.assemble(("starting", "bold"), f"  {words.duration(waited)}"),
        Content.assemble(("torch and trl are being loaded; this takes some seconds", "dim")),
    )


def remaining_s(state: RunState) -> float | None:
    """Seconds of training left, judged by the newest steps; None before the first has finished."""
    if state.run is None or not state.steps:
        return None
    newest = [sum(step.seconds.values()) for step in state.steps[-RECENT_STEPS:]]
    return sum(newest) / len(newest) * max(0, state.run.steps - state.steps[-1].step)


def _steps(state: RunState, watched: Watched, now: datetime, width: int) -> Content:
    run = state.run
    phase = PHASES[state.phase]
    if state.pause is not None:
        phase = f"paused: {state.pause.reason}"
    elif watched.stop_asked:
        phase = "stopping: saving a checkpoint"
    elif not watched.going_on:
        phase = f"died while {phase}: {likely_cause(state)}"
    done = state.steps[-1].step if state.steps else 0
    lasted = seconds_since(state.started_at, now)
    if not watched.going_on:
        lasted -= seconds_since(state.updated_at, now)
    clock = words.duration(max(0.0, lasted))
    left = remaining_s(state)
    if left is not None and watched.going_on and state.phase not in ("save", "evaluate"):
        clock += f" · about {words.duration(left)} left"
        if state.before is not None:
            clock += " + evaluation" if width >= 90 else " + eval"
    steps = f"step {max(1, state.step)}/{run.steps}" if run else "step –"
    share = done / max(1, run.steps) if run else 0.0
    room = width - len(phase) - len(steps) - len(clock) - 8
    middle = f" {words.bar(share, min(40, room))} " if room >= 6 else " "
    return Content.assemble((phase, "bold"), "  ", steps, (middle, "$text-accent"), f" {clock}")


def _generation(state: RunState, width: int) -> Content:
    beat = state.generation
    if state.phase != "generate" or beat is None:
        if not state.steps or state.phase not in ("judge", "reference", "update"):
            return Content("")
        if beat is None:
            return Content("")
        return Content.assemble(
            (f"generated {beat.rows} completions · {beat.tokens:,} tokens", "dim"),
            (f" · {beat.tokens_per_s:,.0f} tok/s", "dim"),
        )
    tail = f"{beat.rows_done}/{beat.rows} ended · {beat.tokens:,} tokens · {beat.tokens_per_s:,.0f} tok/s"
    room = min(40, width - len(tail) - 14)
    drawn = f"{words.bar(beat.rows_done / max(1, beat.rows), room)} " if room >= 6 else ""
    return Content.assemble("completions ", (drawn, "$text-accent"), tail)


def result(state: RunState, ended: ev.RunEnded, directory: str, width: int) -> Content:
    """What became of the run, in the words and figures of the command line."""
    good = ended.good
    mark = ("✓ ", "$text-success") if good else ("✗ ", "$text-error")
    first = Content.assemble(mark, (ended.message, "bold"), f" · {words.duration(ended.seconds)}")
    if ended.r_ida_first is not None and ended.r_ida_last is not None:
        change = words.signed(ended.r_ida_last - ended.r_ida_first, 3)
        first += Content.assemble(
            " · R_IDA ",
            (f"{ended.r_ida_first:.3f} → {ended.r_ida_last:.3f}", "bold"),
            f" ({change})",
        )
    second = Content(ended.hint.splitlines()[0] if ended.hint and not good else "")
    before, after = state.before, state.after
    if before is not None and after is not None:
        long = width >= 90
        second = Content.assemble(
            "held-out prompts: " if long else "held-out: ",
            "harmless answered " if long else "answered ",
            (_shares(before.harmless_complied, after.harmless_complied, before.harmless), "bold"),
            " · unsafe declined " if long else " · declined ",
            (_shares(before.unsafe_refused, after.unsafe_refused, before.unsafe), "bold"),
        )
    third = Content.assemble((f"{directory} · 3 completions · 1 launch", "dim"))
    return lines(first, second, third)


def _shares(before: int, after: int, whole: int) -> str:
    return f"{before / whole:.0%} → {after / whole:.0%}" if whole else "none asked"


def looking_back(state: RunState, watched: Watched, width: int) -> Content:
    """Which step is looked at, and how to come back."""
    step = state.steps[-1].step if state.steps else 0
    newest = watched.state.steps[-1].step if watched.state.steps else 0
    bar = words.bar(step / max(1, newest), min(40, max(6, width - 56)))
    return lines(
        Content.assemble(
            ("looking back", "bold"), f"  step {step} of {newest} ", (bar, "$text-accent")
        ),
        Content.assemble(("[ and ] move by a step, \\ returns to the newest", "dim")),
    )
