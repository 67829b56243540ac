"""Printed lines of a run comparison."""

from __future__ import annotations

from ida_tui.analysis.comparison import (
    Comparison,
    compared_axes,
    reward_title,
    run_title,
    score_curve,
)
from ida_tui.analysis.comparison_text import difference_rows, result_rows, run_labels
from ida_tui.config.scoring.axes import Axis, axis_title, display_scale, format_score
from ida_tui.util.format import format_number
from ida_tui.util.sparkline import sparkline
from ida_tui.util.text import table_lines


def comparison_lines(comparison: Comparison) -> list[str]:
    """Run names, warnings, config differences, results and curves."""
    labels = run_labels(comparison)
    out = [
        f"{letter}  {run_title(run)}" for letter, run in zip(labels, comparison.runs, strict=True)
    ]
    out += [f"! {warning}" for warning in comparison.warnings]
    differences = difference_rows(comparison)
    out += ["", "Config differences"]
    out += table_lines(labels, differences) if differences else ["  none"]
    out += ["", "Results", *table_lines(labels, result_rows(comparison))]
    for axis in (None, *compared_axes(comparison)):
        out += ["", *_curve_lines(comparison, axis)]
    return out


def _curve_lines(comparison: Comparison, axis: Axis | None) -> list[str]:
    """The curves of the runs on one axis; None is the reward."""
    curves = [score_curve(run, axis.name if axis else None) for run in comparison.runs]
    low, high = display_scale((value for curve in curves for value in curve), axis)
    title = axis_title(axis.name) if axis else reward_title(comparison.runs)
    out = [f"{title} over {comparison.steps} steps (scale {low:g} to {high:g})"]
    for letter, values in zip(run_labels(comparison), curves, strict=True):
        drawing = sparkline(values, low=low, high=high, steps=comparison.steps)
        newest = next((v for v in reversed(values) if v is not None), None)
        text = format_score(newest, axis) if axis else format_number(newest, 3)
        out.append(f"  {letter}  {drawing}  {text}")
    return out
