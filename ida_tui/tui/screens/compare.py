"""Compare screen: the marked runs side by side, with their curves in one plot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, ScrollableContainer
from textual.content import Content
from textual.widgets import Static

from ida_tui.analysis.comparison import (
    Comparison,
    compare_runs,
    compared_axes,
    reward_title,
    run_title,
    score_curve,
)
from ida_tui.analysis.comparison_text import difference_rows, result_rows, run_labels
from ida_tui.config.scoring.axes import Axis, axis_title, display_scale
from ida_tui.errors import IdaError
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.widgets.plot import RUN_STYLES, PlotLine, draw_plot
from ida_tui.util.text import one_line, table_lines

MIN_PLOT_ROWS = 4
"""Smallest height of one of several stacked plots."""
NO_COMPARISON_TEXT = "No runs to compare. Press 4, mark at least two runs (Space), then press c."


class CompareScreen(IdaScreen):
    """Config differences, results, and curves of two or more runs."""

    SCOPE: ClassVar[Scope] = "compare"
    TITLE = "Compare"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._paths: tuple[Path, ...] = ()
        self._comparison: Comparison | None = None
        self._view = 0
        """Position in `_views`."""

    def compose_body(self) -> ComposeResult:
        """Tables and curves, or a hint if no runs are selected."""
        yield Static(NO_COMPARISON_TEXT, id="no-comparison", markup=False)
        with Horizontal(id="comparison"):
            with ScrollableContainer(id="compare-numbers", classes="pane", can_focus=True) as facts:
                facts.border_title = "Side by side"
                yield Static(id="compare-summary", markup=False)
                yield Static(id="compare-tables", markup=False)
            curves = Static(id="compare-curves", classes="pane", markup=False)
            curves.border_title = "Over the steps"
            yield curves

    def on_mount(self) -> None:
        self.query_one("#comparison").display = False
        self.query_one("#compare-numbers").focus()

    def on_screen_resume(self) -> None:
        if self.app.compared_runs != self._paths:
            self._load_runs(self.app.compared_runs)

    def apply_size(self) -> None:
        """Redraw the curves: they depend on the size."""
        self.call_after_refresh(self._show_curves)

    @work(exclusive=True, group="read")
    async def _load_runs(self, paths: tuple[Path, ...]) -> None:
        try:
            comparison = await asyncio.to_thread(
                compare_runs, [RunDirectory(path) for path in paths]
            )
        except IdaError as error:
            self.app.show_error(error)
            return
        self._paths, self._comparison = paths, comparison
        self.query_one("#no-comparison").display = False
        self.query_one("#comparison").display = True
        self.query_one("#compare-summary", Static).update(render_header(comparison))
        self.query_one("#compare-tables", Static).update(render_tables(comparison))
        self.query_one("#compare-numbers").scroll_home(animate=False)
        self.call_after_refresh(self._show_curves)

    # -- curves -------------------------------------------------------------------------------

    def _views(self, comparison: Comparison) -> list[list[Axis | None]]:
        """The metrics of each view; None is the reward. The first shows all of them, if there is room."""
        height = self.query_one("#compare-curves", Static).content_size.height
        metrics: list[Axis | None] = [None, *compared_axes(comparison)]
        alone = [[metric] for metric in metrics]
        is_small = self.has_class("-compact") or height < MIN_PLOT_ROWS * (len(metrics) + 1)
        return alone if is_small else [metrics, *alone]

    def _show_curves(self) -> None:
        if self._comparison is None:
            return
        pane = self.query_one("#compare-curves", Static)
        width, height = pane.content_size
        views = self._views(self._comparison)
        metrics = views[self._view % len(views)]
        alone = len(metrics) == 1
        pane.border_title = (
            metric_title(self._comparison, metrics[0]) if alone else "Over the steps"
        )
        pane.border_subtitle = "n: next metric" if alone else "n: one metric"
        pane.update(render_curves(self._comparison, metrics, width, height))

    def _step_view(self, direction: int) -> None:
        if self._comparison is not None:
            self._view = (self._view + direction) % len(self._views(self._comparison))
            self._show_curves()

    # -- actions ------------------------------------------------------------------------------

    def action_next_curve(self) -> None:
        """Show the next metric alone; after the last, all of them."""
        self._step_view(1)

    def action_previous_curve(self) -> None:
        """Show the previous metric."""
        self._step_view(-1)

    def action_reload(self) -> None:
        """Read the runs again; one of them may be in progress."""
        if self.app.compared_runs:
            self._load_runs(self.app.compared_runs)

    def handle_escape(self) -> bool:
        """Return to the list of runs."""
        self.app.call_later(self.app.action_go, "runs")
        return True


def render_header(comparison: Comparison) -> Content:
    """The letter and name of each run, and warnings about the comparison."""
    parts: list[Content] = []
    for letter, run, style in zip(
        run_labels(comparison), comparison.runs, RUN_STYLES, strict=False
    ):
        model = run.state.run.model if run.state.run else ""
        about = f" {run_title(run)} · {model}"
        parts.append(Content.assemble((letter, f"bold {style.color}"), one_line(about)))
    parts += [Content.styled(f"! {one_line(w)}", "bold") for w in comparison.warnings]
    return Content("\n").join(parts)


def render_tables(comparison: Comparison) -> Content:
    """Tables of the config differences and the results."""
    names, differing = run_labels(comparison), difference_rows(comparison)
    out = ["", "Config differences"]
    out += table_lines(names, differing) if differing else ["  none"]
    out += ["", "Results", *table_lines(names, result_rows(comparison))]
    return Content("\n".join(map(one_line, out)))


def metric_title(comparison: Comparison, metric: Axis | None) -> str:
    """The title of a plot: the name of the reward, or an axis such as `risk (10 = safest)`."""
    if metric is None:
        return reward_title(comparison.runs)
    return axis_title(metric.name).replace("10 is", "10 =")


def render_curves(
    comparison: Comparison, metrics: Sequence[Axis | None], width: int, height: int
) -> Content:
    """Stacked plots over the same steps; the first is the tallest.

    Args:
        comparison: the runs.
        metrics: axes; None is the reward.
        width: total columns.
        height: total rows.
    """
    rest = (height // (len(metrics) + 1)) if len(metrics) > 1 else 0
    first = height - rest * (len(metrics) - 1)
    parts: list[Content] = []
    for number, metric in enumerate(metrics):
        rows = first if number == 0 else rest
        if len(metrics) > 1:
            parts.append(Content.styled(metric_title(comparison, metric), "bold"))
            rows -= 1
        lines = _plot_lines(comparison, metric)
        low, high = display_scale((value for line in lines for value in line.values), metric)
        parts.append(
            draw_plot(
                lines,
                low=low,
                high=high,
                width=width,
                height=max(1, rows),
                axis=rows >= 8 or number == len(metrics) - 1,
            )
        )
    return Content("\n").join(parts)


def _plot_lines(comparison: Comparison, metric: Axis | None) -> list[PlotLine]:
    lines = []
    digits = 1 if metric is not None and metric.kind == "judged" else 3
    for letter, run, style in zip(
        run_labels(comparison), comparison.runs, RUN_STYLES, strict=False
    ):
        values = score_curve(run, metric.name if metric else None)
        missing = comparison.steps - len(values)
        if missing:
            # Pad a shorter run, so that all runs share one step axis.
            values = [*values, *[None] * missing]
        lines.append(PlotLine(letter, values, *style, digits))
    return lines
