"""Printed lines of a run comparison."""

from __future__ import annotations

from ida_tui.analysis.comparison import CURVE_METRICS, Comparison, run_title, score_curve
from ida_tui.analysis.comparison_text import difference_rows, result_rows, run_labels
from ida_tui.util.sparkline import sparkline
from ida_tui.util.text import table_lines

CURVE_MAXIMA = {"r_ida": 1.0, "align": 10.0, "risk": 10.0, "detail": 10.0}
CURVE_TITLES = {
    "r_ida": "R_IDA",
    "align": "align",
    "risk": "risk (10 is safest)",
    "detail": "detail",
}


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
    for name in CURVE_METRICS:
        out += [
            "",
            f"{CURVE_TITLES[name]} over {comparison.steps} steps (scale 0 to {CURVE_MAXIMA[name]:g})",
        ]
        for letter, run in zip(labels, comparison.runs, strict=True):
            values = score_curve(run, name)
            drawing = sparkline(values, low=0, high=CURVE_MAXIMA[name], steps=comparison.steps)
            newest = next((v for v in reversed(values) if v is not None), None)
            digits = 3 if name == "r_ida" else 1
            newest_text = "–" if newest is None else f"{newest:.{digits}f}"
            out.append(f"  {letter}  {drawing}  {newest_text}")
    return out
