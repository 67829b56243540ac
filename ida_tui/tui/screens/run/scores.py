"""Scores pane: plots of the reward and of each axis over the steps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import datetime

from textual.content import Content

from ida_tui.config.scoring.axes import display_scale
from ida_tui.events import types as ev
from ida_tui.events.held_out import CURVE_NAMES, curve
from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines
from ida_tui.tui.widgets.plot import (
    AXIS_STYLES,
    HELD_OUT_STYLES,
    REWARD_STYLE,
    PlotLine,
    draw_plot,
)
from ida_tui.util.format import UNKNOWN, format_number, format_signed


class ScoresPane(Pane):
    """Numbers and plots of the scores, redrawn only after a new step or a resize."""

    NAME, KEY = "Scores", "S"

    def __init__(self) -> None:
        super().__init__()
        self._source_key: tuple[object, ...] = ()

    def refresh_pane(self, run_view: RunView, now: datetime, changed: EventTypes | None) -> None:
        """Update the pane."""
        state = run_view.displayed_state
        has_risk = any(axis.name == "risk" for axis in state.axes)
        self.border_subtitle = "risk: 10 = safest" if has_risk else ""
        newest = state.steps[-1].step if state.steps else 0
        source = (
            len(state.steps),
            newest,
            len(state.evaluations_during),
            state.evaluation_after is not None,
            run_view.viewed_state is None,
            self.available_size,
            id(run_view),
        )
        if source != self._source_key:
            self._source_key = source
            super().refresh_pane(run_view, now, changed)

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """Numbers, the plot of the reward, and below it the plot of the axes."""
        width, height = self.available_size
        if not state.steps:
            return Content.assemble(("No step has finished yet.", "dim"))
        start = state.scoring_start
        if start == len(state.steps):
            text = f"The scoring changed after step {state.scored_since_step}: no step has finished since."
            return Content.assemble((text, "dim"))
        rows = height - 1
        above = rows // 2 if rows >= 8 else rows
        # Earlier steps were scored in another way, so their values are not comparable.
        newest = state.newest_rollout or state.steps[-1]
        if newest.step <= state.scored_since_step:
            newest = state.steps[-1]
        parts = [render_scores(state, state.steps[start], newest, width)]
        first = state.steps[start].step
        rewards = state.steps.column("reward").since(start)
        scored_held_out = curve(state.evaluations, "reward") if state.evaluations_during else {}
        low, high = display_scale([*rewards, *scored_held_out.values()])
        held_out = _held_out_lines(state, start, (low, high))
        parts.append(
            draw_plot(
                [PlotLine(state.reward_name, rewards, *REWARD_STYLE, 3), *held_out],
                low=low, high=high, width=width, height=max(1, above), first=first, axis=rows >= 12,
            )
        )  # fmt: skip
        if above < rows:
            parts.append(_draw_axes(state, start, width, rows - above))
        return join_lines(*parts)


def _held_out_lines(state: RunState, start: int, scale: tuple[float, float]) -> list[PlotLine]:
    """Points of the evaluations on the held-out prompts; none without evaluations between the steps.

    Args:
        state: the run.
        start: position of the first step.
        scale: the scale of the reward; shares of answers have their own, from 0 to 1.
    """
    if not state.evaluations_during:
        return []
    steps = state.steps.column("step").since(start)
    lines = []
    for name in CURVE_NAMES:
        # Rewards of an earlier scoring are not comparable.
        points = curve(state.evaluations, name, after_step=state.scored_since_step)
        values: list[float | None] = [None] * len(steps)
        for step, value in points.items():
            position = bisect_left(steps, step, key=lambda number: int(number or 0))
            if position < len(steps) and steps[position] == step:
                values[position] = value
        if any(value is not None for value in values):
            own = None if name == "reward" or scale == (0.0, 1.0) else (0.0, 1.0)
            label = "held out" if name == "reward" else name
            digits = 3 if name == "reward" else 2
            color, shape = HELD_OUT_STYLES[CURVE_NAMES.index(name)]
            lines.append(PlotLine(label, values, color, (1,), digits, own, shape))
    return lines


def _draw_axes(state: RunState, start: int, width: int, height: int) -> Content:
    """The plot of all axes; computed axes on their own scale are drawn as shares of it.

    Args:
        state: the run.
        start: position of the first step.
        width: columns of the plot.
        height: rows of the plot.
    """
    values = [state.steps.score_column(axis.name).since(start) for axis in state.axes]
    scales = [display_scale(column, axis) for column, axis in zip(values, state.axes, strict=True)]
    low, high = scales[0]
    lines = []
    # The last line, that of the first axis, is drawn on top.
    for number in (*range(1, len(state.axes)), 0):
        axis, column, style = state.axes[number], values[number], AXIS_STYLES[number]
        digits = 1 if axis.kind == "judged" else 3
        line = PlotLine(axis.name, column, *style, digits)
        if scales[number] != (low, high):
            line = replace(line, scale=scales[number])
        lines.append(line)
    return draw_plot(
        lines, low=low, high=high, width=width, height=height, first=state.steps[start].step
    )


def render_scores(
    state: RunState, first: ev.StepFinished, last: ev.StepFinished, width: int
) -> Content:
    """The change since the first step, with the latest values if there is room for both."""
    figures: list[tuple[str, float | None, float | None, int, str]] = [
        (state.reward_name, first.reward, last.reward, 3, REWARD_STYLE.color)
    ]
    for axis, style in zip(state.axes, AXIS_STYLES, strict=False):
        digits = 1 if axis.kind == "judged" else 3
        scores = first.scores.get(axis.name), last.scores.get(axis.name)
        figures.append((axis.name, *scores, digits, style.color))
    wide = width >= 70 and len(figures) <= 4
    parts: list[tuple[str, str] | str] = []
    used = 0
    for name, baseline, recent, digits, color in figures:
        known = baseline is not None and recent is not None
        change = format_signed(recent - baseline, digits) if known else UNKNOWN  # type: ignore[operator]
        used += len(name) + len(change) + 2
        if not wide and parts and used > width:
            parts += [("…", "dim"), ""]
            break
        parts.append((f"{name} ", color))
        parts += [(format_number(recent, digits), "bold"), f" {change}"] if wide else [change]
        parts.append("   " if wide else " ")
    parts.pop()
    if width >= 90 and wide:
        parts.append((f"   since step {first.step}", "dim"))
    return Content.assemble(*parts)
