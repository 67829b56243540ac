"""Scores pane: plots of R_IDA, align, risk, and detail over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from ida_tui.events import types as ev
from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines
from ida_tui.tui.widgets.plot import SCORE_STYLES, PlotLine, draw_plot
from ida_tui.util.format import UNKNOWN, format_number, format_signed


class ScoresPane(Pane):
    """Numbers and plots of the scores, redrawn only after a new step or a resize."""

    NAME, KEY = "Scores", "S"

    def __init__(self) -> None:
        super().__init__()
        self.border_subtitle = "risk: 10 = safest"
        self._source_key: tuple[object, ...] = ()

    def refresh_pane(self, run_view: RunView, now: datetime, changed: EventTypes | None) -> None:
        """Update the pane."""
        state = run_view.displayed_state
        newest = state.steps[-1].step if state.steps else 0
        source = (
            len(state.steps),
            newest,
            run_view.viewed_state is None,
            self.available_size,
            id(run_view),
        )
        if source != self._source_key:
            self._source_key = source
            super().refresh_pane(run_view, now, changed)

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """Numbers, the plot of R_IDA, and below it the plot of the axes."""
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
        parts = [render_scores(state.steps[start], newest, width)]
        first = state.steps[start].step
        parts.append(
            draw_plot(
                [_score_line("R_IDA", state.steps.column("r_ida")[start:], 3)],
                low=0, high=1, width=width, height=max(1, above), first=first, axis=rows >= 12,
            )
        )  # fmt: skip
        if above < rows:
            axes = [
                _score_line("risk", state.steps.column("risk")[start:], 1),
                _score_line("detail", state.steps.column("detail")[start:], 1),
                _score_line("align", state.steps.column("align")[start:], 1),
            ]
            parts.append(
                draw_plot(axes, low=0, high=10, width=width, height=rows - above, first=first)
            )
        return join_lines(*parts)


def _score_line(name: str, values: Sequence[float | None], digits: int) -> PlotLine:
    return PlotLine(name, values, *SCORE_STYLES[name], digits)


def render_scores(first: ev.StepFinished, last: ev.StepFinished, width: int) -> Content:
    """The change since the first step, with the latest values if there is room for both."""
    wide = width >= 70
    parts: list[tuple[str, str] | str] = []
    for name, digits in (("R_IDA", 3), ("align", 1), ("risk", 1), ("detail", 1)):
        baseline, recent = getattr(first, name.lower()), getattr(last, name.lower())
        known = baseline is not None and recent is not None
        change = format_signed(recent - baseline, digits) if known else UNKNOWN
        parts.append((f"{name} ", SCORE_STYLES[name].color))
        parts += [(format_number(recent, digits), "bold"), f" {change}"] if wide else [change]
        parts.append("   " if wide else " ")
    parts.pop()
    if width >= 90:
        parts.append((f"   since step {first.step}", "dim"))
    return Content.assemble(*parts)
