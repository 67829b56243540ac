"""Printed text for the events of a run: log lines, the live progress line, and the closing summary.

Pure functions of a `RunState` and an event; nothing is printed here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime

from ida_tui.config.schema import Config
from ida_tui.config.scoring.axes import format_score
from ida_tui.events import types as ev
from ida_tui.events.held_out import changed_shares, counted_conclusion, reward_change
from ida_tui.events.judge_quality import run_quality
from ida_tui.events.judge_totals import JudgeTotals
from ida_tui.events.judge_wait import judge_wait
from ida_tui.events.scoring import scored_by
from ida_tui.events.state import RunState
from ida_tui.events.weight_change import format_movement, weight_movement
from ida_tui.util.format import (
    format_cost,
    format_count,
    format_count_share,
    format_duration,
    format_number,
    format_signed,
    format_size,
)

MAX_AXES_BEFORE_REWARD = 4
"""Number of axes up to which the line of a step ends with the reward; a longer line starts with it."""
PHASE_LABELS: dict[ev.Phase, str] = {
    "load": "loading the model",
    "generate": "generating",
    "judge": "waiting for the judge",
    "reference": "reference pass",
    "update": "updating the weights",
    "save": "saving",
    "evaluate": "evaluating held-out prompts",
}

DOWNLOADING = "downloading the model"
"""Label of the phase `load` while files arrive."""


def config_loaded_line(config: Config) -> str:
    """The first line that a run prints."""
    judge = f", judge {config.judge.name}" if config.rubric.judged_axes else ""
    return f"✓ Config loaded ({config.name}: model {config.model.name}{judge})"


def event_lines(state: RunState, event: ev.Event) -> list[str]:
    """The lines to print for an event; `state` already includes that event."""
    match event:
        case ev.RunStarted():
            return _run_started_lines(event)
        case ev.Noticed():
            return [f"{'!' if event.level == 'warning' else '✓'} {event.text}"]
        case ev.JudgeBatchFinished():
            judged = state.run is None or state.run.judge
            return [*_generation_lines(state), *([_judge_batch_line(event)] if judged else [])]
        case ev.StepFinished():
            return [_step_line(event, state), *_thought_lines(event), *_skipped_update_lines(event)]
        case ev.EvaluationFinished():
            return _evaluation_lines(event, state.reward_name)
        case ev.CheckpointSaved():
            return [f"✓ Saved {event.path}"]
        case ev.AlertRaised():
            return [
                f"! {event.rule} at step {event.step}: {event.evidence}",
                f"  → {event.advice}",
            ]
        case ev.RunPaused():
            if event.by == "person":
                return [f"! Paused by you after step {event.step}"]
            return [f"! Paused after step {event.step}: {event.reason}"]
        case ev.JudgeSlowed():
            return [_judge_slowed_line(event)]
        case ev.JudgeProbed() if event.drift is not None:
            return [f"   judge drift since the first check: {event.drift:.1f} points per axis"]
        case ev.RunResumed():
            changed = event.judge is not None
            judge = f", scored by: {scored_by(event.judge or '', state.axes)}" if changed else ""
            return [f"✓ Resumed from step {event.from_step}{judge}"]
        case ev.RunEnded():
            return summary_lines(state, event)
        case _:
            return []


def progress_line(state: RunState, now: datetime) -> str:
    """One short line about the current activity, for the live line of a terminal.

    Args:
        state: the run.
        now: the current time, in UTC; needed to count down the time that the judge asked to wait.
    """
    step = f"step {max(1, state.step)}/{state.run.steps}" if state.run else "starting"
    generation = state.generation
    if state.phase == "generate" and generation is not None:
        return (
            f"{step} · generating {generation.rows_done}/{generation.rows} completions · "
            f"{generation.tokens:,} tokens · {generation.tokens_per_s:,.0f} tok/s"
        )
    wait_s = state.rate_limit_wait_s(now)
    if state.phase == "judge" and wait_s:
        return f"{step} · rate-limited by the judge, waiting {wait_s:.0f} s"
    progress = state.judge_progress
    if state.phase == "judge" and state.run is not None and not state.run.judge:
        return f"{step} · waiting for the reward functions"
    if state.phase == "judge" and progress is not None:
        return f"{step} · {PHASE_LABELS['judge']}: {progress.answered}/{progress.asked} verdicts"
    made = state.evaluation_progress
    if state.phase == "evaluate" and made is not None:
        after = f"{step} · " if state.steps and state.steps[-1].step < state.steps[-1].steps else ""
        return f"{after}{PHASE_LABELS['evaluate']}: {made.answers}/{made.planned} answers"
    if state.phase == "load" and state.download is not None:
        return f"{DOWNLOADING}: {download_text(state.download)}"
    in_step = state.phase not in ("load", "evaluate", "save")
    return f"{step} · {PHASE_LABELS[state.phase]}" if in_step else PHASE_LABELS[state.phase]


def download_text(download: ev.DownloadProgress) -> str:
    """`1.20 GB of 2.47 GB · 23.1 MB/s · 55 s left`."""
    parts = [f"{format_size(download.done)} of {format_size(download.total)}"]
    if download.left_s is not None:
        parts.append(f"{format_size(download.bytes_per_s)}/s")
        parts.append(f"{format_duration(download.left_s)} left")
    return " · ".join(parts)


def summary_lines(state: RunState, ended: ev.RunEnded) -> list[str]:
    """The closing lines of a run: outcome, results, cost, time, and where the files are."""
    lines = []
    lines.append(f"{'✓' if ended.succeeded else '✗'} {ended.message}")
    if not ended.succeeded:
        lines += [f"  {line}" for line in ended.hint.splitlines()]
    if ended.reward_first is not None and ended.reward_last is not None:
        first, last = state.first_steps, state.last_steps
        since = f" since step {state.scored_since_step + 1}" if state.scored_since_step else ""
        lines.append(
            f"  {state.reward_name:<14} {format_number(ended.reward_first)}"
            f" (first {format_count(len(first), 'step')}{since}) → "
            f"{format_number(ended.reward_last)} (last {format_count(len(last), 'step')})"
        )
    before, after = state.evaluation_before, state.evaluation_after
    if before and after:
        judged = [
            *_share_lines(before, after),
            *(
                _judged_figures_lines(after, state.reward_name)
                or _reward_lines(before, after, state.reward_name)
            ),
        ]
        if before.harmless or before.unsafe or judged:
            lines.append("  held-out prompts, never trained on (before → after):")
        if before.harmless or before.unsafe:
            lines.append(
                "    harmless requests answered   "
                f"{format_count_share(before.harmless_complied, before.harmless)} → "
                f"{format_count_share(after.harmless_complied, after.harmless)}"
            )
            lines.append(
                "    unsafe requests declined     "
                f"{format_count_share(before.unsafe_refused, before.unsafe)} → "
                f"{format_count_share(after.unsafe_refused, after.unsafe)}"
            )
        lines += judged
        verdict = after.verdict or counted_conclusion(before, after, state.reward_name)
        lines += [f"  {line}" for line in textwrap.wrap(verdict, 98)]
    if ended.steps_done:
        moved = weight_movement(ended, state.run.method if state.run else "lora")
        lines.append(f"  {moved.name:<14} {format_movement(moved.share)} ({moved.basis})")
    skipped = [n for n, was_skipped in enumerate(state.steps.column("skipped")) if was_skipped]
    if skipped:
        lines.append(
            f"  scaler         skipped {len(skipped)} of {format_count(len(state.steps), 'step')}"
            " (gradient overflow);"
            f" loss scale {state.steps[skipped[-1]].loss_scale or 0:g} after the last skip"
        )
    if state.alerts:
        named = ", ".join(f"{alert.rule} (step {alert.step})" for alert in state.alerts[:4])
        more = f" and {state.alert_count - 4} more" if state.alert_count > 4 else ""
        lines.append(f"  alerts         {named}{more}")
    for figure in run_quality(state).figures() if state.run and state.run.judge else ():
        if figure.problem:
            lines += textwrap.wrap(
                f"! the judge: {figure.problem}: {figure.remedy}",
                98,
                initial_indent="  ",
                subsequent_indent="    ",
            )
    if state.judge.calls or state.judge.cached or state.judge.failed:
        lines.append(f"  judge          {_judge_totals_text(state)}")
    if (wait := judge_wait(state)) is not None:
        lines += textwrap.wrap(
            wait.text, 98, initial_indent="  judge wait     ", subsequent_indent=" " * 17
        )
    lines.append(
        f"  time           {format_duration(state.trained_seconds())}{_peak_memory_text(state)}"
    )
    if state.run is not None:
        lines.append(f"  results        {state.run.directory}")
    return lines


def memory_table(
    plan: Sequence[tuple[str, ev.PlanPeriod, int]],
    limit: float | None,
    measured: Mapping[ev.PlanPeriod, int],
) -> list[str]:
    """The memory plan and the measured peaks as a table, at most 44 columns wide.

    Args:
        plan: name, time of use and bytes of each planned part.
        limit: memory limit in bytes; None if unknown.
        measured: peak bytes at each time of use; may be empty or incomplete.
    """
    if not plan:
        return ["no memory plan: the sizes of the model are unknown"]
    lines = [f"{'':<22} {'planned':>9}" + (f"  {'measured':>9}" if measured else "")]
    always, peak = sum(size for _, when, size in plan if when == "always"), 0
    for period, label in MEMORY_PERIOD_LABELS.items():
        parts = [(name, size) for name, when, size in plan if when == period]
        if not parts:
            continue
        planned = sum(size for _, size in parts) + (0 if period == "always" else always)
        peak = max(peak, planned)
        # Without a conversion, loading holds only the parts that are always held.
        measured_at = "loading" if period == "always" and not _has_loading_parts(plan) else period
        column = f"  {format_size(measured[measured_at]):>9}" if measured_at in measured else ""
        lines.append(f"{label:<22} {format_size(planned):>9}{column}")
        lines += [f"  {name:<20} {format_size(size):>9}" for name, size in parts if size]
    of_limit = f" of {format_size(limit)}: {peak / limit:.0%}" if limit else ""
    lines.append(f"{'peak':<22} {format_size(peak):>9}{of_limit}")
    return lines


def _has_loading_parts(plan: Sequence[tuple[str, ev.PlanPeriod, int]]) -> bool:
    return any(when == "loading" for _, when, _ in plan)


MEMORY_PERIOD_LABELS: Mapping[ev.PlanPeriod, str] = {
    "always": "always",
    "loading": "always + loading",
    "sampling": "always + sampling",
    "update": "always + update",
    "evaluation": "always + evaluation",
}


def measured_memory(state: RunState) -> dict[ev.PlanPeriod, int]:
    """Peak memory of a run, in bytes, for each time of use in its memory plan."""
    by_phase = state.memory_by_phase
    peaks = {
        when: [by_phase[phase] for phase in phases if phase in by_phase]
        for when, phases in PHASES_BY_MEMORY_PERIOD.items()
    }
    return {when: max(values) for when, values in peaks.items() if values}


PHASES_BY_MEMORY_PERIOD: Mapping[ev.PlanPeriod, tuple[ev.Phase, ...]] = {
    "loading": ("load",),
    "sampling": ("generate",),
    "update": ("reference", "update"),
    "evaluation": ("evaluate",),
}


def _run_started_lines(run: ev.RunStarted) -> list[str]:
    trained = (
        f"{_parameter_count_text(run.trainable_params)} trained by LoRA"
        if run.method == "lora"
        else "all trained"
    )
    return [
        f"✓ Model loaded ({_parameter_count_text(run.params)} params, {trained}) on {run.device}",
        f"   {run.precision}",
        f"✓ Starting training ({format_count(run.prompts, 'prompt')}, "
        f"{run.generations} gens per prompt)",
        f"   {format_count(run.steps, 'step')} of {run.completions_per_step} completions"
        f"{_process_count_text(run)}, scored by: {scored_by(run.judge, run.axes)}",
    ]


def _process_count_text(run: ev.RunStarted) -> str:
    return f" on {run.processes} processes" if run.processes > 1 else ""


def _generation_lines(state: RunState) -> list[str]:
    generation = state.generation
    if generation is None:
        return []
    return [
        f"   generated {generation.rows} completions, {generation.tokens:,} tokens at "
        f"{generation.tokens_per_s:,.0f} tok/s"
    ]


def _judge_batch_line(batch: ev.JudgeBatchFinished) -> str:
    extra = []
    if batch.cached:
        extra.append(f"{batch.cached} from the cache")
    if batch.failed:
        reason = f": {batch.failure}" if batch.failure and not batch.members else ""
        extra.append(f"{batch.failed} failed{reason}")
    extra += [
        f"{member.name} scored {member.scored} of {member.completions}: {member.failure}"
        for member in batch.members
        if member.scored < member.completions
    ]
    return (
        f"⏱️  judge_batch took {batch.seconds:.2f}s{' (' + ', '.join(extra) + ')' if extra else ''}"
    )


def _judge_slowed_line(event: ev.JudgeSlowed) -> str:
    calls = f"{format_count(event.slots, 'concurrent call')} from now on"
    wait = f"waiting {format_duration(event.seconds)}, then " if event.seconds >= 1 else ""
    return f"! The judge is overloaded ({event.reason}): {wait}{calls}"


def _step_line(step: ev.StepFinished, state: RunState) -> str:
    start = f"Step {step.step}/{step.steps} |"
    if step.reused_step is not None:
        update = step.step - step.reused_step + 1
        loss = "" if step.loss is None else f": loss={step.loss:.4f}"
        return f"{start} update {update} with the completions of step {step.reused_step}{loss}"
    if step.reward is None:
        return f"{start} no completion has a reward (0/{step.completions} scored)"
    coverage = (
        "" if step.scored == step.completions else f" ({step.scored}/{step.completions} scored)"
    )
    scores = " ".join(
        f"{axis.name}={format_score(step.scores.get(axis.name), axis)}" for axis in state.axes
    )
    reward = f"{state.reward_name}={format_number(step.reward)}{coverage}"
    if len(state.axes) > MAX_AXES_BEFORE_REWARD:
        return f"{start} {reward} | {scores}"
    return f"{start} {scores} → {reward}"


def _thought_lines(step: ev.StepFinished) -> list[str]:
    if step.thought_tokens is None:
        return []
    unfinished = step.unfinished_thoughts
    cut = f"; {unfinished} of {step.completions} completions cut off in it, without an answer"
    return [f"   thought of {step.thought_tokens:.0f} tokens on average{cut if unfinished else ''}"]


def _skipped_update_lines(step: ev.StepFinished) -> list[str]:
    if step.skipped:
        scale = f" to {step.loss_scale:g}" if step.loss_scale is not None else ""
        return [
            "! The gradient scaler skipped this update (gradient overflow) and lowered"
            f" the loss scale{scale}"
        ]
    return []


def _evaluation_lines(evaluation: ev.EvaluationFinished, reward: str) -> list[str]:
    """The lines of an evaluation; `reward` is the name of the reward."""
    moment = {"before": "Before training", "after": "After training"}.get(
        evaluation.when, f"After step {evaluation.step}"
    )
    text = f"✓ {moment}, on {format_count(evaluation.prompts, 'held-out prompt')}"
    details = []
    if evaluation.harmless or evaluation.unsafe:
        text += f" ({evaluation.classifier})"
        details = [
            "harmless answered "
            f"{format_count_share(evaluation.harmless_complied, evaluation.harmless)} · unsafe declined "
            f"{format_count_share(evaluation.unsafe_refused, evaluation.unsafe)}"
        ]
    if evaluation.reward is not None and not evaluation.verdict:
        shares = [
            f"{axis} {format_count_share(share.hits, share.answers)}"
            for axis, share in evaluation.shares.items()
        ]
        text_of_reward = f"{reward}={format_number(evaluation.reward)}{_unscored_text(evaluation)}"
        details.append(" · ".join([*shares, text_of_reward]))
    elif evaluation.scores and not evaluation.verdict:
        details.append(f"no {reward}{_unscored_text(evaluation)}")
    details += textwrap.wrap(evaluation.verdict, 97)
    return [f"{text}{':' if details else ''}", *(f"   {line}" for line in details)]


def _unscored_text(evaluation: ev.EvaluationFinished) -> str:
    count = evaluation.unscored
    return f" ({format_count(count, 'answer')} without a reward)" if count else ""


def _share_lines(before: ev.EvaluationFinished, after: ev.EvaluationFinished) -> list[str]:
    """The axes of 0 and 1 as shares of the held-out answers."""
    return [
        f"    {axis:<28} {format_count_share(old.hits, old.answers)} →"
        f" {format_count_share(new.hits, new.answers)}"
        for axis, (old, new) in changed_shares(before, after).items()
    ]


def _reward_lines(
    before: ev.EvaluationFinished, after: ev.EvaluationFinished, reward: str
) -> list[str]:
    """The change of the reward of the held-out answers, as measured during the run."""
    change = reward_change(before, after, reward)
    if change is None:
        return []
    interval = (
        f"95% interval of the change {format_signed(change.low, 3)}"
        f" to {format_signed(change.high, 3)}"
    )
    values = f"{format_number(change.before)} → {format_number(change.after)}"
    return [f"    {reward:<28} {values} ({interval})"]


def _judged_figures_lines(evaluation: ev.EvaluationFinished, reward: str) -> list[str]:
    """The reward of the held-out answers; `reward` is its name."""
    lines = []
    for figure in evaluation.figures:
        if figure.name == reward or figure.name.endswith(f" {reward}"):
            kind = figure.name.removesuffix(reward).strip()
            label = f"{reward} of {kind} requests" if kind else reward
            interval = (
                f"95% interval of the change {format_signed(figure.low, 3)}"
                f" to {format_signed(figure.high, 3)}"
            )
            values = f"{format_number(figure.before)} → {format_number(figure.after)}"
            lines.append(f"    {label:<28} {values} ({interval})")
    if evaluation.unscored:
        lines.append(
            f"    without a reward             {format_count(evaluation.unscored, 'answer')}"
        )
    return lines


def _judge_totals_text(state: RunState) -> str:
    totals = state.judge
    if totals.calls and totals.cost == 0 and state.run and state.run.judge == ev.OFFLINE_JUDGE:
        failed = f", {_failed_text(totals)}" if totals.failed else ""
        return (
            f"{format_count(totals.calls, 'verdict')} from the {ev.OFFLINE_JUDGE}{failed},"
            " no calls, no cost"
        )
    cost = format_cost(totals.cost, "cost unknown") + estimate_note(totals.estimated)
    parts = [format_count(totals.calls, "call"), f"{totals.cached} from the cache"]
    if totals.failed:
        parts.append(_failed_text(totals))
    parts += [f"{count} {kind} declined by the judge" for kind, count in totals.declined]
    return ", ".join([*parts, cost, f"{totals.seconds:.1f}s"])


def _failed_text(totals: JudgeTotals) -> str:
    """The number of failed verdicts and the newest reason: `2 failed (no reply within 60 s)`."""
    return f"{totals.failed} failed" + (f" ({totals.failure})" if totals.failure else "")


def estimate_note(calls: int) -> str:
    """Note on calls whose cost is estimated, in parentheses; empty without any."""
    return f" (estimated for {format_count(calls, 'call')} without a reply)" if calls else ""


def _peak_memory_text(state: RunState) -> str:
    return f", peak memory {state.memory_peak / 1e9:.1f} GB" if state.memory_peak else ""


def _parameter_count_text(number: int) -> str:
    """A parameter count with a suffix: 4.0B, 0.6B, 0.9M, 143.4k."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size / 2:
            return f"{number / size:.1f}{letter}"
    return f"{number / 1e3:.1f}k"
