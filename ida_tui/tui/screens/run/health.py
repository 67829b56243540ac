"""Health pane: alerts and the latest step's training metrics, which show problems before the reward does."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from ida_tui.events import types as ev
from ida_tui.events.state import RunState
from ida_tui.events.weight_change import format_movement, weight_movement
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines
from ida_tui.util.format import format_number, format_percent, format_significant


class HealthPane(Pane):
    """Alerts and the metrics of the latest step."""

    NAME, KEY = "Health", "H"

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """Alerts first, then metrics with their names, in as many columns as fit."""
        width, height = self.available_size
        rows = alert_lines(state.alerts, width, height)
        if not state.steps:
            return join_lines(*rows, Content.assemble(("No step has finished yet.", "dim")))
        columns = max(1, width // 19)
        pairs = step_metrics(state)
        each = max(14, width // columns)
        cells = [
            Content.assemble((f"{name:<9} ", "dim"), f"{value:<{each - 10}}")
            for name, value in pairs
        ]
        rows += [
            Content("").join(cells[start : start + columns])
            for start in range(0, len(cells), columns)
        ]
        return join_lines(*rows)


def alert_lines(raised: Sequence[ev.AlertRaised], width: int, height: int) -> list[Content]:
    """The newest alerts with their advice, in at most half of the pane's height."""
    rows: list[Content] = []
    for alert in reversed(raised):
        text = f"! {alert.rule}, step {alert.step}: {alert.evidence}"
        parts = [(line, "bold $text-warning") for line in textwrap.wrap(text, max(20, width))]
        parts += [(line, "") for line in textwrap.wrap(f"→ {alert.advice}", max(20, width))]
        if rows and len(rows) + len(parts) > height // 2:
            break
        rows += [Content.assemble(part) for part in parts]
    return rows[: max(1, height // 2)]


def _movement_metric(step: ev.StepFinished, method: str) -> tuple[str, str]:
    movement = weight_movement(step, method)
    return "weight Δ" if movement.is_of_model else "adapter Δ", format_movement(movement.share)


def step_metrics(state: RunState) -> list[tuple[str, str]]:
    """The metrics of the newest step as (name, value) pairs, the most important first.

    Metrics of completions are those of the step that generated them.
    """
    step = state.steps[-1]
    rollout = state.newest_rollout or step
    skipped = round(state.steps.column("skipped").sum())
    method = state.run.method if state.run else "lora"
    logprob_gap = state.logprob_gap
    lengths = "–"
    if rollout.lengths is not None:
        mean, low, high = rollout.lengths
        lengths = f"{mean:.0f} ({low:.0f}–{high:.0f})"
    return [
        ("truncated", format_percent(rollout.truncated)),
        ("zero-var", format_percent(rollout.zero_std)),
        ("entropy", format_number(step.entropy, 2)),
        ("KL", format_significant(step.kl)),
        ("lengths", lengths),
        *completion_metrics(rollout),
        ("grad norm", format_significant(step.grad_norm)),
        ("loss", format_significant(step.loss)),
        ("lr", format_significant(step.learning_rate)),
        _movement_metric(step, method),
        ("skipped", str(skipped)),
        ("largest Δ", format_significant(step.largest_change)),
        *([("scale", f"{step.loss_scale:g}")] if step.loss_scale is not None else []),
        *([("logprob Δ", format_significant(logprob_gap))] if logprob_gap is not None else []),
        *sampling_metrics(rollout),
        *([("not finite", f"{step.non_finite:,}")] if step.non_finite else []),
    ]


def sampling_metrics(step: ev.StepFinished) -> list[tuple[str, str]]:
    """How far the policy that drew the completions is from the one that is trained, if they differ."""
    if step.sampling_ratio is None:
        return []
    return [
        ("IS ratio", format_number(step.sampling_ratio, 3)),
        ("IS KL", format_significant(step.sampling_kl)),
        ("IS capped", format_percent(step.sampling_clipped)),
    ]


def completion_metrics(step: ev.StepFinished) -> list[tuple[str, str]]:
    """Metrics of the completions that do not come from the judge, if they were computed."""
    pairs = []
    if step.thought_tokens is not None:
        pairs.append(("thoughts", f"{step.thought_tokens:.0f} tok"))
    if step.unfinished_thoughts:
        pairs.append(("cut off", f"{step.unfinished_thoughts} thoughts"))
    if step.harmless:
        pairs.append(("refused", format_percent(step.harmless_refused / step.harmless)))
    if step.unsafe:
        pairs.append(("declined", format_percent(step.unsafe_declined / step.unsafe)))
    if step.repetition is not None:
        pairs.append(("repeats", format_percent(step.repetition)))
    if step.length_r is not None:
        pairs.append(("length r", format_number(step.length_r, 2)))
    if step.offline_reward is not None:
        pairs.append(("offline", format_number(step.offline_reward, 2)))
    return pairs
