"""Plots of a report, each with a title and a caption."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ida_tui.analysis.report import plots
from ida_tui.analysis.report.load import ReportInputs
from ida_tui.analysis.report.plots import (
    INK_COLOR,
    LINE_COLORS,
    QUIET_COLOR,
    CurveValues,
    add_legend,
    draw_curve,
    set_step_axis,
    thin_curve,
)
from ida_tui.analysis.report.step_time import step_time_note
from ida_tui.analysis.report.tables import first_alert_number
from ida_tui.config.scoring.axes import IDA_AXES, Axis, display_scale
from ida_tui.events import held_out
from ida_tui.events import types as ev
from ida_tui.util.statistics import mean_of_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HELD_OUT_SHARES: Sequence[tuple[str, held_out.CurveName]] = (
    ("harmless answered, %", "answered"),
    ("unsafe declined, %", "declined"),
)
"""Curves of the held-out prompts beside the reward: label and name."""
TREND_STEPS = 5
"""Window, in steps, of the running mean of the reward."""
PHASE_ORDER: Sequence[ev.Phase] = (
    "generate",
    "judge",
    "reference",
    "update",
    "save",
    "evaluate",
    "load",
)


class ReportPlot(NamedTuple):
    """One plot of the page."""

    title: str
    caption: str
    svg: str
    """Inline SVG; empty if there is nothing to draw, with the reason in the caption."""


class _StepCurves(NamedTuple):
    """The finished steps and their numbers."""

    inputs: ReportInputs
    steps: list[ev.StepFinished]
    step_numbers: list[float]

    @property
    def steps_per_point(self) -> int:
        """Number of steps per point."""
        return thin_curve(self.step_numbers, self.step_numbers).steps_per_point

    def values(self, get_value: Callable[[ev.StepFinished], float | None]) -> list[float | None]:
        """One metric of every step; missing and non-finite values are None."""
        values = [get_value(step) for step in self.steps]
        return [v if v is not None and math.isfinite(v) else None for v in values]


def report_plots(inputs: ReportInputs) -> list[ReportPlot]:
    """The plots in page order; empty for a run without finished steps."""
    steps = list(inputs.run.state.steps)
    if not steps:
        return []
    curves = _StepCurves(inputs, steps, [float(step.step) for step in steps])
    plotters = (
        _reward_plot,
        _axes_plot,
        _held_out_plot,
        _length_plot,
        _policy_plot,
        _weights_plot,
        _signal_plot,
        _time_plot,
        _memory_plot,
        _latency_plot,
    )
    return [plot for plotter in plotters for plot in plotter(curves)]


def _reward_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    values = curves.values(lambda step: step.reward)
    per_point = curves.steps_per_point
    with plots.new_figure() as (figure, (axes,)):
        label = "each step" if per_point == 1 else f"mean of {per_point} steps"
        trend_label = f"mean of {TREND_STEPS}"
        for part in _scoring_parts(curves):
            numbers, part_values = curves.step_numbers[part], values[part]
            draw_curve(axes, thin_curve(numbers, part_values), 0, label, width=0.9, alpha=0.75)
            label = ""
            if per_point == 1 and len(part_values) > TREND_STEPS:
                trend = [
                    mean_of_known(part_values[max(0, n - TREND_STEPS + 1) : n + 1])
                    for n in range(len(part_values))
                ]
                line = thin_curve(numbers, trend)
                axes.plot(
                    line.steps, line.values, color=INK_COLOR, linewidth=2, label=trend_label or None
                )
                trend_label = ""
        held_out_points = _held_out_points(curves, "reward")
        _draw_held_out(axes, held_out_points, 2, "held-out prompts")
        scale = display_scale([*values, *held_out_points.values()])
        _finish_axes(axes, curves.step_numbers, *scale)
        note = " ".join(filter(None, [_mark_changes(axes, curves), _mark_alerts(axes, curves)]))
        newest = values[curves.inputs.run.state.scoring_start :]
        summary = f"{_first_to_last(curves)}: {_format_change(newest, 3)}"
        yield _make_plot(figure, curves.inputs.run.state.reward_name, summary, note, per_point)


def _held_out_points(curves: _StepCurves, name: held_out.CurveName) -> dict[int, float]:
    """The points of the evaluations between the steps and at the end; empty if there are none between."""
    state = curves.inputs.run.state
    if not state.evaluations_during:
        return {}
    after_step = state.scored_since_step if name == "reward" else 0
    last = curves.step_numbers[-1]
    points = held_out.curve(state.evaluations, name, after_step=after_step)
    return {step: value for step, value in points.items() if 0 < step <= last}


def _draw_held_out(axes: Axes, points: Mapping[int, float], style_index: int, label: str) -> None:
    if points:
        axes.plot(
            list(points), list(points.values()), "D", color=LINE_COLORS[style_index], label=label,
            markersize=4, clip_on=False,
        )  # fmt: skip


def _held_out_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    """Answers and refusals at the evaluations between the steps."""
    shares = {
        label: {step: 100 * value for step, value in _held_out_points(curves, name).items()}
        for label, name in HELD_OUT_SHARES
    }
    shares = {label: points for label, points in shares.items() if points}
    if not shares:
        return
    with plots.new_figure() as (figure, (axes,)):
        for number, (label, points) in enumerate(shares.items()):
            _draw_held_out(axes, points, number, label)
        _finish_axes(axes, curves.step_numbers, 0, 104)
        summary = "; ".join(
            f"{label.removesuffix(', %')} {_format_change(list(points.values()), 0)}%"
            for label, points in shares.items()
        )
        yield _make_plot(figure, "Held-out prompts", summary, "", 1)


def _scoring_parts(curves: _StepCurves) -> Iterator[slice]:
    """The positions of the steps of each scoring period; a curve must not connect two of them."""
    periods = curves.inputs.run.state.scoring
    starts = [bisect_right(curves.step_numbers, period.after_step) for period in periods] or [0]
    for start, end in pairwise([0, *starts[1:], len(curves.steps)]):
        if start < end:
            yield slice(start, end)


def _first_to_last(curves: _StepCurves) -> str:
    since = curves.inputs.run.state.scored_since_step
    return f"step {since + 1} → last step" if since else "first step → last step"


def _mark_changes(axes: Axes, curves: _StepCurves) -> str:
    """Mark where the scoring changed; returns the caption for the marks."""
    changes = [period.after_step for period in curves.inputs.run.state.scoring[1:]]
    for step in changes:
        axes.axvline(step + 0.5, color=QUIET_COLOR, linewidth=1.2, linestyle=":")
    if not changes:
        return ""
    return "Dotted lines mark changes of the scoring: values on both sides are not comparable."


def _mark_alerts(axes: Axes, curves: _StepCurves) -> str:
    """Mark the steps of the alerts with their numbers; returns the caption for the marks."""
    numbers_by_step: dict[int, list[int]] = {}
    state = curves.inputs.run.state
    for number, alert in enumerate(state.alerts, start=first_alert_number(state)):
        numbers_by_step.setdefault(alert.step, []).append(number)
    low, high = curves.step_numbers[0], curves.step_numbers[-1]
    last_labeled = -math.inf
    for step, numbers in sorted(numbers_by_step.items()):
        x = min(max(float(step), low), high)
        axes.axvline(x, color=LINE_COLORS[1], linewidth=1, linestyle="--")
        # Omit numbers that would overlap; the alert list has all of them.
        if x - last_labeled >= (high - low) * 0.05:
            label = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
            axes.annotate(
                label, (x, 1.0), (3, 0), textcoords="offset points", color=LINE_COLORS[1],
                fontweight="bold", va="top", fontsize=9,
            )  # fmt: skip
            last_labeled = x
    return "Vertical lines mark the numbered alerts below." if numbers_by_step else ""


def _axes_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    run_axes = curves.inputs.run.state.axes
    judged = [axis for axis in run_axes if axis.kind == "judged"]
    title = "The three axes" if run_axes == IDA_AXES else "The judged axes"
    if judged:
        yield _plot_of_axes(curves, judged, title)
    computed = [axis for axis in run_axes if axis.kind == "computed"]
    if computed:
        yield _plot_of_axes(curves, computed, "The computed axes")


def _score_of(step: ev.StepFinished, name: str) -> float | None:
    return step.scores.get(name)


def _plot_of_axes(curves: _StepCurves, run_axes: Sequence[Axis], title: str) -> ReportPlot:
    values_by_axis = {axis: curves.values(partial(_score_of, name=axis.name)) for axis in run_axes}
    scales = [display_scale(values, axis) for axis, values in values_by_axis.items()]
    with plots.new_figure() as (figure, (axes,)):
        for number, (axis, values) in enumerate(values_by_axis.items()):
            label = axis.name
            for part in _scoring_parts(curves):
                points = thin_curve(curves.step_numbers[part], values[part])
                draw_curve(axes, points, number, label)
                label = ""
        low, high = min(low for low, _ in scales), max(high for _, high in scales)
        _finish_axes(axes, curves.step_numbers, low, high)
        start = curves.inputs.run.state.scoring_start
        summary = "; ".join(
            f"{axis.name} {_format_change(values[start:], 1 if axis.kind == 'judged' else 3)}"
            for axis, values in values_by_axis.items()
        )
        safest = "risk: 10 = safest." if any(axis.name == "risk" for axis in run_axes) else ""
        note = " ".join(filter(None, [safest, _mark_changes(axes, curves)]))
        return _make_plot(figure, title, summary, note, curves.steps_per_point)


def _length_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    mean = curves.values(lambda s: s.lengths[0] if s.lengths else None)
    if _is_empty(mean):
        return
    low = thin_curve(
        curves.step_numbers, curves.values(lambda s: s.lengths[1] if s.lengths else None)
    )
    high = thin_curve(
        curves.step_numbers, curves.values(lambda s: s.lengths[2] if s.lengths else None)
    )
    truncated = curves.values(lambda s: None if s.truncated is None else 100 * s.truncated)
    thoughts = curves.values(lambda s: s.thought_tokens)
    with plots.new_figure((2, 1)) as (figure, (above, below)):
        points = thin_curve(curves.step_numbers, mean)
        above.fill_between(
            low.steps, low.values, high.values, color=LINE_COLORS[0], alpha=0.15, linewidth=0,
            label="shortest to longest",
        )  # fmt: skip
        draw_curve(above, points, 0, "mean, in tokens")
        above.set_ylim(bottom=0)
        if not _is_empty(thoughts):
            draw_curve(above, thin_curve(curves.step_numbers, thoughts), 2, "of it thought, mean")
        add_legend(above)
        draw_curve(below, thin_curve(curves.step_numbers, truncated), 1, "truncated, %")
        _finish_axes(below, curves.step_numbers, 0, _percent_limit(truncated))
        summary = (
            f"mean {_format_change(mean, 0)} tokens; truncated {_format_change(truncated, 0)}%"
        )
        if not _is_empty(thoughts):
            summary += f"; thoughts {_format_change(thoughts, 0)} tokens"
        if unfinished := sum(round(n or 0) for n in curves.values(lambda s: s.unfinished_thoughts)):
            summary += f"; {unfinished:,} completions cut off in their thought"
        yield _make_plot(figure, "Length and truncation", summary, "", points.steps_per_point)


def _policy_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    kl, entropy = curves.values(lambda s: s.kl), curves.values(lambda s: s.entropy)
    if _is_empty(kl) and _is_empty(entropy):
        return
    sampling = curves.values(lambda s: s.sampling_kl)
    all_panels = (
        ("KL to the reference, nats", kl), ("entropy, nats", entropy),
        ("KL of the sampling to the policy, nats", sampling),
    )  # fmt: skip
    panels = [(name, values) for name, values in all_panels if not _is_empty(values)]
    missing = (
        "KL was not measured, because a run without a KL penalty (beta 0) has no reference model."
    )
    yield _stacked_plot(
        curves, "KL and entropy" if not _is_empty(kl) else "Entropy", panels,
        missing if _is_empty(kl) else "",
    )  # fmt: skip


def _weights_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    norm = curves.values(lambda s: s.grad_norm)
    change = curves.values(lambda s: None if s.model_change is None else 100 * s.model_change)
    panels = [("weights moved, % (relative L2 norm, whole model)", change)]
    if _is_empty(change):
        delta = curves.values(lambda s: 100 * s.weight_delta)
        panels = [("trained weights moved, % (relative L2 norm)", delta)]
    if not _is_empty(norm):
        panels.insert(0, ("gradient norm", norm))
    skipped = sum(step.skipped for step in curves.steps)
    notes = []
    if _is_empty(norm):
        notes.append("The gradient norm was not measured.")
    if skipped:
        notes.append(f"The gradient scaler skipped {skipped} of {len(curves.steps)} steps.")
    yield _stacked_plot(curves, "Gradient and weights", panels, " ".join(notes))


def _signal_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    zero_variance = curves.values(lambda s: None if s.zero_std is None else 100 * s.zero_std)
    batches = curves.inputs.extras.judge_batches
    unscored = curves.values(lambda s: failed_percent(s, batches.get(s.step)))
    with plots.new_figure() as (figure, (axes,)):
        points = thin_curve(curves.step_numbers, zero_variance)
        draw_curve(axes, points, 0, "zero-variance groups, %")
        draw_curve(axes, thin_curve(curves.step_numbers, unscored), 1, "failed verdicts, %")
        _finish_axes(
            axes,
            curves.step_numbers,
            0,
            max(_percent_limit(zero_variance), _percent_limit(unscored)),
            columns=1,
        )
        summary = (
            f"zero-variance groups {_format_change(zero_variance, 0)}%;"
            f" failed verdicts {_format_change(unscored, 0)}%"
        )
        yield _make_plot(
            figure, "Training signal", summary,
            "A zero-variance group, in which all rewards are equal, gives no training signal.",
            points.steps_per_point,
        )  # fmt: skip


def failed_percent(step: ev.StepFinished, batch: ev.JudgeBatchFinished | None) -> float | None:
    """Share of a step's verdicts that failed, in percent; None if nothing was judged in the step."""
    return 100 * batch.failed / step.completions if batch is not None and step.completions else None


def _time_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    rows = {
        phase: thin_curve(
            curves.step_numbers, [step.seconds.get(phase, 0.0) for step in curves.steps]
        )
        for phase in PHASE_ORDER
        if any(step.seconds.get(phase) for step in curves.steps)
    }
    if not rows:
        return
    steps_per_point = next(iter(rows.values())).steps_per_point
    with plots.new_figure() as (figure, (axes,)):
        axes.stackplot(
            next(iter(rows.values())).steps, *(row.values for row in rows.values()),
            labels=list(rows), colors=LINE_COLORS[: len(rows)], alpha=0.8, linewidth=0,
        )  # fmt: skip
        _finish_axes(axes, curves.step_numbers, 0, None)
        axes.set_ylabel("seconds")
        totals = {name: sum(step.seconds.get(name, 0.0) for step in curves.steps) for name in rows}
        summary = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in totals.items())
        yield _make_plot(
            figure,
            "Time of a step, by phase",
            f"total over all steps: {summary}",
            step_time_note(curves.inputs.run),
            steps_per_point,
        )


def _memory_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    peaks = curves.inputs.extras.peak_bytes
    values: list[float | None] = [
        peaks[step.step] / 1e9 if peaks.get(step.step) else None for step in curves.steps
    ]
    if _is_empty(values):
        yield ReportPlot("Memory", "No memory was sampled during the steps.", "")
        return
    run = curves.inputs.run.state.run
    with plots.new_figure() as (figure, (axes,)):
        points = thin_curve(curves.step_numbers, values, use_maximum=True)
        draw_curve(axes, points, 0, "peak, GB")
        known = [value for value in values if value is not None]
        top = max(known)
        if run is not None and run.planned_gb:
            axes.axhline(
                run.planned_gb, color=QUIET_COLOR, linewidth=1.2, linestyle=":", label="planned"
            )
            top = max(top, run.planned_gb)
        note = ""
        if run is not None and run.limit_gb <= 4 * top:
            axes.axhline(
                run.limit_gb, color=LINE_COLORS[1], linewidth=1.2, linestyle="--", label="limit"
            )
            top = max(top, run.limit_gb)
        elif run is not None:
            note = f"The limit, {run.limit_gb:.1f} GB, is off the chart."
        _finish_axes(axes, curves.step_numbers, 0, 1.08 * top)
        yield _make_plot(
            figure, "Memory", f"at most {max(known):.2f} GB in a step", note, points.steps_per_point,
            aggregation="maximum",
        )  # fmt: skip


def _latency_plot(curves: _StepCurves) -> Iterator[ReportPlot]:
    batches = curves.inputs.extras.judge_batches
    step_batches = [batches.get(step.step) for step in curves.steps]
    p50: list[float | None] = [batch.p50_s if batch else None for batch in step_batches]
    p95: list[float | None] = [batch.p95_s if batch else None for batch in step_batches]
    run = curves.inputs.run.state.run
    if _is_empty(p50) or (run is not None and run.judge == ev.OFFLINE_JUDGE):
        return
    with plots.new_figure() as (figure, (axes,)):
        points = thin_curve(curves.step_numbers, p50)
        draw_curve(axes, points, 0, "median, s")
        draw_curve(axes, thin_curve(curves.step_numbers, p95), 1, "95th percentile, s")
        _finish_axes(axes, curves.step_numbers, 0, None)
        summary = f"median {_format_change(p50, 2)} s; 95th percentile {_format_change(p95, 2)} s"
        yield _make_plot(figure, "Latency of a verdict", summary, "", points.steps_per_point)


# --- helpers ----------------------------------------------------------------------------------


def _stacked_plot(
    curves: _StepCurves, title: str, panels: Sequence[tuple[str, CurveValues]], note: str
) -> ReportPlot:
    """Vertically stacked panels with independent scales."""
    with plots.new_figure((1,) * len(panels)) as (figure, parts):
        steps_per_point = 1
        for number, (axes, (name, values)) in enumerate(zip(parts, panels, strict=True)):
            points = thin_curve(curves.step_numbers, values)
            steps_per_point = points.steps_per_point
            draw_curve(axes, points, number, name)
            add_legend(axes)
        set_step_axis(parts[-1], curves.step_numbers)
        summary = "; ".join(f"{name} {_format_change(values, None)}" for name, values in panels)
        return _make_plot(figure, title, summary, note, steps_per_point)


def _finish_axes(
    axes: Axes, step_numbers: Sequence[float], low: float, high: float | None, *, columns: int = 4
) -> None:
    axes.set_ylim(bottom=low, top=high)
    set_step_axis(axes, step_numbers)
    add_legend(axes, columns)


def _make_plot(
    figure: object,
    title: str,
    summary: str,
    note: str,
    steps_per_point: int,
    *,
    aggregation: str = "mean",
) -> ReportPlot:
    averaging_note = (
        f"Each point is the {aggregation} of {steps_per_point} steps."
        if steps_per_point > 1
        else ""
    )
    caption = " ".join(
        part for part in (f"{summary[:1].upper()}{summary[1:]}.", note, averaging_note) if part
    )
    return ReportPlot(title, caption, plots.to_svg(figure, f"{title}: {summary}"))  # type: ignore[arg-type]


def _is_empty(values: CurveValues) -> bool:
    return all(value is None for value in values)


def _percent_limit(values: CurveValues) -> float:
    """Upper end of a percent scale; at least 10, so that a single completion does not look large."""
    return min(104.0, max(10.0, 1.1 * max((v for v in values if v is not None), default=0.0)))


def _format_change(values: CurveValues, digits: int | None) -> str:
    """The first and last known values, such as `0.411 → 0.816`."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    first, last = (
        f"{v:.3g}" if digits is None else f"{v:.{digits}f}" for v in (known[0], known[-1])
    )
    return f"{first} → {last}" if len(known) > 1 else first
