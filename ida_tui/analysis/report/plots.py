"""Line plots as inline SVG, drawn with matplotlib in the colors and font of the page.

The output is deterministic. Text remains text, and plots contain no text from models or users.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_INCHES = (5.3, 3.0)
"""Size of a plot; 72 page units per inch, so that its text is readable on a phone."""
MAX_POINTS = 400
"""Maximum points of a curve; for longer runs, each point averages several steps."""
MAX_MARKED_POINTS = 60
"""Maximum number of points that are drawn with markers."""

# Placeholder colors that are replaced by the variables of the stylesheet.
INK_COLOR, QUIET_COLOR, GRID_COLOR = "#010101", "#010102", "#010103"
LINE_COLORS = ("#0101a1", "#0101a2", "#0101a3", "#0101a4", "#0101a5", "#0101a6", "#0101a7")
DASH_PATTERNS = ("-", "--", ":", "-.")
_CSS_VARIABLES = {INK_COLOR: "--ink", QUIET_COLOR: "--quiet", GRID_COLOR: "--grid"} | {
    color: f"--line-{number}" for number, color in enumerate(LINE_COLORS, start=1)
}

CurveValues = Sequence[float | None]


class CurvePoints(NamedTuple):
    """The points of a curve."""

    steps: list[float]
    values: list[float]
    """NaN where a value is missing."""
    steps_per_point: int
    """Number of steps per point."""


def thin_curve(
    steps: Sequence[float], values: CurveValues, *, use_maximum: bool = False
) -> CurvePoints:
    """A curve with a limited number of points, each the mean, or the maximum, of consecutive steps."""
    steps_per_point = max(1, -(-len(steps) // MAX_POINTS))
    xs, ys = [], []
    for start in range(0, len(steps), steps_per_point):
        known = [value for value in values[start : start + steps_per_point] if value is not None]
        chunk = steps[start : start + steps_per_point]
        xs.append(sum(chunk) / len(chunk))
        if not known:
            ys.append(float("nan"))
        else:
            ys.append(max(known) if use_maximum else sum(known) / len(known))
    return CurvePoints(xs, ys, steps_per_point)


@contextmanager
def new_figure(row_heights: Sequence[int] = (1,)) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure with vertically stacked panels.

    Args:
        row_heights: relative heights of the panels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "ida-tui", "path.simplify": True,
        "font.family": "sans-serif", "font.size": 9.5, "text.color": INK_COLOR,
        "axes.edgecolor": QUIET_COLOR, "axes.labelcolor": QUIET_COLOR, "xtick.color": QUIET_COLOR,
        "ytick.color": QUIET_COLOR, "grid.color": GRID_COLOR,
        "axes.grid": True, "axes.grid.axis": "y", "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "grid.linewidth": 0.8,
        "xtick.labelcolor": QUIET_COLOR, "ytick.labelcolor": QUIET_COLOR, "ytick.major.size": 0,
        "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9.5,
        "lines.linewidth": 1.6, "text.usetex": False, "text.parse_math": False,
        "axes.unicode_minus": True, "lines.solid_capstyle": "round", "axes.formatter.useoffset": False,
    }  # fmt: skip
    # Ignore the user's matplotlibrc.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update(style)
        figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
        panels = figure.subplots(
            len(row_heights), 1, sharex=True, squeeze=False, height_ratios=list(row_heights)
        )
        yield figure, [axes[0] for axes in panels]


def draw_curve(
    axes: Axes,
    points: CurvePoints,
    style_index: int,
    label: str = "",
    *,
    width: float = 1.6,
    alpha: float = 1,
) -> None:
    """Draw one curve; its number selects color and dash pattern, so curves differ without color too."""
    show_markers = len(points.steps) <= MAX_MARKED_POINTS or _has_isolated_points(points.values)
    axes.plot(
        points.steps, points.values, DASH_PATTERNS[style_index % len(DASH_PATTERNS)],
        color=LINE_COLORS[style_index % len(LINE_COLORS)], label=label or None, linewidth=width,
        alpha=alpha, clip_on=False,
        marker="o" if show_markers else None, markersize=2.2,
    )  # fmt: skip


def _has_isolated_points(values: Sequence[float]) -> bool:
    """Whether a value has a gap on both sides, so that a line without markers would not show it."""
    padded = [math.nan, *values, math.nan]
    return any(
        math.isnan(before) and not math.isnan(value) and math.isnan(after)
        for before, value, after in zip(padded, padded[1:], padded[2:], strict=False)
    )


def add_legend(axes: Axes, columns: int = 4) -> None:
    """Add a horizontal legend above the panel."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.02), ncols=columns, handlelength=1.8,
            columnspacing=1.2, borderaxespad=0.2, labelcolor=INK_COLOR,
        )  # fmt: skip


def set_step_axis(axes: Axes, steps: Sequence[float]) -> None:
    """Label the horizontal axis of the lowest panel with integer steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    if steps:
        margin = max(0.5, (steps[-1] - steps[0]) * 0.02)
        axes.set_xlim(steps[0] - margin, steps[-1] + margin)


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline `<svg>` element.

    Args:
        figure: the matplotlib figure.
        description: text alternative for screen readers; escaped here.
    """
    from markupsafe import escape

    out = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    referenced_ids = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    # Drop unreferenced ids, which would be duplicated across the plots of a page.
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in referenced_ids else "", text)
    for color, name in _CSS_VARIABLES.items():
        text = text.replace(color, f"var({name})")
    # Use the page's font; matplotlib versions write the font in different ways.
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r"font: ((?:\w+ )?[\d.]+px)[^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"\n\s*", "\n", text)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    # Inline SVG needs no xlink namespace.
    text = text[head.end() :].replace("xlink:href", "href")
    return f'<svg {box[0]} role="img" aria-label="{escape(description)}">{text}'
