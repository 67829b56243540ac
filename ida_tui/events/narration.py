"""What a record is worth saying in words: pure functions from state and event to printed lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime

from ida_tui.config.schema import Config
from ida_tui.events import types as ev
from ida_tui.events.state import RunState

PHASES: dict[ev.Phase, str] = {
    "load": "loading the model",
    "generate": "generating",
    "judge": "waiting for the judge",
    "reference": "reference pass",
    "update": "updating the weights",
    "save": "saving",
    "evaluate": "evaluating held-out prompts",
}


def config_loaded(config: Config) -> str:
    """The first line of a run."""
    return f"✓ Config loaded ({config.name}: model {config.model.name}, judge {config.judge.name})"


def lines(state: RunState, event: ev.Event) -> list[str]:
    """The lines that an event prints, given the state that already includes it."""
    match event:
        case ev.RunStarted():
            return _run_started(event)
        case ev.Noticed():
            return [f"{'!' if event.level == 'warning' else '✓'} {event.text}"]
        case ev.JudgeBatchFinished():
            return [*_generation(state), _judge_batch(event)]
        case ev.StepFinished():
            return [_step(event), *_trouble(event)]
        case ev.EvaluationFinished():
            return _evaluation(event)
        case ev.CheckpointSaved():
            return [f"✓ Saved {event.path}"]
        case ev.AlertRaised():
            return [
                f"! {event.rule} at step {event.step}: {event.evidence}",
                f"  → {event.advice}",
            ]
        case ev.RunPaused():
            return [f"! Paused after step {event.step}: {event.reason}"]
        case ev.JudgeSlowed():
            return [_slowed(event)]
        case ev.JudgeProbed() if event.drift is not None:
            return [f"   the judge, asked the same again: {event.drift:.1f} points an axis apart"]
        case ev.RunResumed():
            judge = f", scored by: {event.judge}" if event.judge else ""
            return [f"✓ Resumed from step {event.from_step}{judge}"]
        case ev.RunEnded():
            return summary(state, event)
        case _:
            return []


def progress(state: RunState, now: datetime) -> str:
    """One short line about what is going on right now (`now`, UTC), for the live line of a terminal."""
    step = f"step {max(1, state.step)}/{state.run.steps}" if state.run else "starting"
    beat = state.generation
    if state.phase == "generate" and beat is not None:
        return (
            f"{step} · generating {beat.rows_done}/{beat.rows} completions · "
            f"{beat.tokens:,} tokens · {beat.tokens_per_s:,.0f} tok/s"
        )
    held = state.held_s(now)
    if state.phase == "judge" and held:
        return f"{step} · the judge asked to wait: {held:.0f} s"
    if state.phase == "judge" and state.asking is not None:
        return f"{step} · {PHASES['judge']}: {state.asking.answered}/{state.asking.asked} verdicts"
    where = step if state.phase not in ("load", "evaluate", "save") else ""
    return f"{where} · {PHASES[state.phase]}" if where else PHASES[state.phase]


def summary(state: RunState, ended: ev.RunEnded) -> list[str]:
    """The closing lines: what happened, what it was worth, and where everything is."""
    out = []
    out.append(f"{'✓' if ended.good else '✗'} {ended.message}")
    if not ended.good:
        out += [f"  {line}" for line in ended.hint.splitlines()]
    if ended.r_ida_first is not None and ended.r_ida_last is not None:
        first, last = state.first_steps, state.last_steps
        out.append(
            f"  R_IDA          {ended.r_ida_first:.3f} (first {_steps(len(first))}) → "
            f"{ended.r_ida_last:.3f} (last {_steps(len(last))})"
        )
    before, after = state.before, state.after
    if before and after:
        out.append("  held-out prompts, never trained on (before → after):")
        out.append(
            "    harmless requests answered   "
            f"{_share(before.harmless_complied, before.harmless)} → "
            f"{_share(after.harmless_complied, after.harmless)}"
        )
        out.append(
            "    unsafe requests declined     "
            f"{_share(before.unsafe_refused, before.unsafe)} → "
            f"{_share(after.unsafe_refused, after.unsafe)}"
        )
        out += _judged(after)
    if ended.steps_done:
        out.append(f"  weights moved  {100 * ended.weight_delta:.2f} % (relative L2 norm)")
    skipped = [n for n, yes in enumerate(state.steps.figures("skipped")) if yes]
    if skipped:
        out.append(
            f"  scaler         skipped {len(skipped)} of {_steps(len(state.steps))}, whose gradients"
            f" overflowed; scale {state.steps[skipped[-1]].loss_scale or 0:g} after the last"
        )
    if state.alerts:
        named = ", ".join(f"{alert.rule} (step {alert.step})" for alert in state.alerts[:4])
        more = f" and {state.alerted - 4} more" if state.alerted > 4 else ""
        out.append(f"  alerts         {named}{more}")
    if state.judge.calls or state.judge.cached or state.judge.failed:
        out.append(f"  judge          {_judge_totals(state)}")
    out.append(f"  time           {_duration(ended.seconds)}{_peak(state)}")
    if state.run is not None:
        out.append(f"  results        {state.run.directory}")
    return out


def memory_table(
    plan: Sequence[tuple[str, ev.When, int]], limit: float | None, measured: Mapping[ev.When, int]
) -> list[str]:
    """What was planned, part by part, beside what a run has held: a line each, 44 columns at most.

    Args:
        plan: name, when it is held, and bytes.
        limit: bytes to stay under; None where none is known.
        measured: most that was held at each time, in bytes, as far as it is known; may be empty.
    """
    if not plan:
        return ["not planned: the model's sizes were not known"]
    out = [f"{'':<22} {'planned':>9}" + (f"  {'measured':>9}" if measured else "")]
    base, most = sum(size for _, when, size in plan if when == "always"), 0
    for moment, words in MOMENTS.items():
        parts = [(name, size) for name, when, size in plan if when == moment]
        if not parts:
            continue
        held = sum(size for _, size in parts) + (0 if moment == "always" else base)
        most = max(most, held)
        # What was held while loading is what is held all the time, where nothing is converted.
        told = "loading" if moment == "always" and not _loads(plan) else moment
        found = f"  {_size(measured[told]):>9}" if told in measured else ""
        out.append(f"{words:<22} {_size(held):>9}{found}")
        out += [f"  {name:<20} {_size(size):>9}" for name, size in parts if size]
    of = f" of {_size(limit)}: {most / limit:.0%}" if limit else ""
    out.append(f"{'at once':<22} {_size(most):>9}{of}")
    return out


def _loads(plan: Sequence[tuple[str, ev.When, int]]) -> bool:
    return any(when == "loading" for _, when, _ in plan)


MOMENTS: Mapping[ev.When, str] = {
    "always": "all the time",
    "loading": "and while loading",
    "sampling": "and while sampling",
    "update": "or in the update",
}


def measured_memory(state: RunState) -> dict[ev.When, int]:
    """Most that a run has held while each part of its memory plan was in use, in bytes."""
    seen = state.memory_by_phase
    times = {when: [seen[p] for p in phases if p in seen] for when, phases in PHASES_OF.items()}
    return {when: max(held) for when, held in times.items() if held}


PHASES_OF: Mapping[ev.When, tuple[ev.Phase, ...]] = {
    "loading": ("load",),
    "sampling": ("generate",),
    "update": ("reference", "update"),
}


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _run_started(run: ev.RunStarted) -> list[str]:
    trained = (
        f"{_count(run.trainable_params)} trained by LoRA" if run.method == "lora" else "all trained"
    )
    return [
        f"✓ Model loaded ({_count(run.params)} params, {trained}) on {run.device}",
        f"   {run.precision}",
        f"✓ Starting training ({run.prompts} prompt{'s' * (run.prompts != 1)}, "
        f"{run.generations} gens per prompt)",
        f"   {run.steps} steps of {run.completions_per_step} completions{_together(run)}, scored by:"
        f" {run.judge}",
    ]


def _together(run: ev.RunStarted) -> str:
    return f" on {run.processes} processes" if run.processes > 1 else ""


def _generation(state: RunState) -> list[str]:
    beat = state.generation
    if beat is None:
        return []
    return [
        f"   generated {beat.rows} completions, {beat.tokens:,} tokens at "
        f"{beat.tokens_per_s:,.0f} tok/s"
    ]


def _judge_batch(batch: ev.JudgeBatchFinished) -> str:
    extra = []
    if batch.cached:
        extra.append(f"{batch.cached} from the cache")
    if batch.failed:
        extra.append(f"{batch.failed} without a verdict")
    return (
        f"⏱️  judge_batch took {batch.seconds:.2f}s{' (' + ', '.join(extra) + ')' if extra else ''}"
    )


def _slowed(event: ev.JudgeSlowed) -> str:
    calls = f"{event.slots} call{'s' * (event.slots != 1)} at once from here on"
    wait = f"waiting {_duration(event.seconds)}, then " if event.seconds >= 1 else ""
    return f"! the judge is overloaded ({event.reason}): {wait}{calls}"


def _step(step: ev.StepFinished) -> str:
    start = f"Step {step.step}/{step.steps} |"
    if step.r_ida is None:
        return f"{start} no verdicts (0/{step.completions} scored)"
    coverage = (
        "" if step.scored == step.completions else f" ({step.scored}/{step.completions} scored)"
    )
    return (
        f"{start} align={step.align:.1f} risk={step.risk:.1f} detail={step.detail:.1f} "
        f"→ R_IDA={step.r_ida:.3f}{coverage}"
    )


def _trouble(step: ev.StepFinished) -> list[str]:
    if step.skipped:
        scale = f" to {step.loss_scale:g}" if step.loss_scale is not None else ""
        return [
            f"! the gradient scaler skipped this update (a gradient overflowed); scale lowered{scale}"
        ]
    return []


def _evaluation(figures: ev.EvaluationFinished) -> list[str]:
    moment = "Before training" if figures.when == "before" else "After training"
    return [
        f"✓ {moment}, on {figures.prompts} held-out prompts ({figures.classifier}):",
        f"   harmless answered {_share(figures.harmless_complied, figures.harmless)} · "
        f"unsafe declined {_share(figures.unsafe_refused, figures.unsafe)}",
        *(f"   {line}" for line in textwrap.wrap(figures.verdict, 97)),
    ]


def _judged(figures: ev.EvaluationFinished) -> list[str]:
    """What the judge says of the same answers, where it was asked."""
    said = []
    for name, _, before, after, low, high in figures.figures:
        if name.endswith(" R_IDA"):
            what = f"R_IDA of {name.removesuffix(' R_IDA')} requests"
            interval = f"95 % interval of the change {low:+.3f} to {high:+.3f}".replace("-", "−")
            said.append(f"    {what:<28} {before:.3f} → {after:.3f} ({interval})")
    if figures.unscored:
        said.append(f"    without a verdict            {figures.unscored} answers")
    return said + [f"  {line}" for line in textwrap.wrap(figures.verdict, 98)]


def _judge_totals(state: RunState) -> str:
    totals = state.judge
    if totals.calls and totals.cost == 0 and state.run and state.run.judge == ev.OFFLINE_JUDGE:
        return f"{totals.calls} verdicts of the {ev.OFFLINE_JUDGE}, no calls, no cost"
    cost = "cost unknown" if totals.cost is None else f"${totals.cost:.4f}"
    parts = [f"{totals.calls} calls", f"{totals.cached} from the cache"]
    if totals.failed:
        parts.append(f"{totals.failed} without a verdict")
    parts += [f"{count} {kind} declined by the judge" for kind, count in totals.declined]
    return ", ".join([*parts, cost, f"{totals.seconds:.1f}s"])


def _peak(state: RunState) -> str:
    return f", peak memory {state.memory_peak / 1e9:.1f} GB" if state.memory_peak else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % ({part}/{whole})" if whole else "none asked"


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _count(number: int) -> str:
    """A parameter count as people say it: 4.0B, 0.6B, 0.9M, 143.4k."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size / 2:
            return f"{number / size:.1f}{letter}"
    return f"{number / 1e3:.1f}k"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
