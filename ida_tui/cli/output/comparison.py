"""A comparison of runs as printed lines."""

from __future__ import annotations

from ida_tui.analysis.comparison import CURVES, Comparison
from ida_tui.analysis.comparison_text import difference_rows, figure_rows, letters
from ida_tui.cli.output.sparkline import curve
from ida_tui.util.text import table

HIGHEST = {"r_ida": 1.0, "align": 10.0, "risk": 10.0, "detail": 10.0}
TITLES = {"r_ida": "R_IDA", "align": "align", "risk": "risk (10 is safest)", "detail": "detail"}


def lines(comparison: Comparison) -> list[str]:
    """Who, what does not compare, what differs, what became of them, and their curves."""
    names = letters(comparison)
    out = [f"{letter}  {run.name}" for letter, run in zip(names, comparison.runs, strict=True)]
    out += [f"! {warning}" for warning in comparison.warnings]
    differing = difference_rows(comparison)
    out += ["", "what differs in their profiles"]
    out += table(names, differing) if differing else ["  nothing"]
    out += ["", "what became of them", *table(names, figure_rows(comparison))]
    for name in CURVES:
        out += ["", f"{TITLES[name]} over {comparison.steps} steps, from 0 to {HIGHEST[name]:g}"]
        for letter, run in zip(names, comparison.runs, strict=True):
            values = run.curve(name)
            drawn = curve(values, low=0, high=HIGHEST[name], steps=comparison.steps)
            newest = next((v for v in reversed(values) if v is not None), None)
            digits = 3 if name == "r_ida" else 1
            shown = "–" if newest is None else f"{newest:.{digits}f}"
            out.append(f"  {letter}  {drawn}  {shown}")
    return out
