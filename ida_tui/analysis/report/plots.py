"""Curves as inline SVG, by matplotlib: the same bytes for the same figures, in the page's own colours.

Text stays text, in the page's font. No other text than this program's own gets into a picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (5.3, 3.0)
"""One picture; 72 units of the page an inch, so that its text is readable on a phone."""
MOST_POINTS = 400
"""Of one curve; longer ones are means of as many steps as it takes."""
MARKED = 60
"""Up to so many points each has a dot."""

# Stand-ins that no picture uses otherwise; the page's stylesheet says what they are.
INK, QUIET, GRID = "#010101", "#010102", "#010103"
LINES = ("#0101a1", "#0101a2", "#0101a3", "#0101a4", "#0101a5", "#0101a6", "#0101a7")
PATTERNS = ("-", "--", ":", "-.")
_NAMES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid"} | {
    colour: f"--line-{number}" for number, colour in enumerate(LINES, start=1)
}

Values = Sequence[float | None]


class Points(NamedTuple):
    """A curve, as it is drawn."""

    steps: list[float]
    values: list[float]
    """NaN where there is none."""
    each: int
    """How many steps a point stands for."""


def thinned(steps: Sequence[float], values: Values, *, highest: bool = False) -> Points:
    """A curve of at most `MOST_POINTS`: the mean, or the highest, of the steps that share one."""
    each = max(1, -(-len(steps) // MOST_POINTS))
    xs, ys = [], []
    for start in range(0, len(steps), each):
        part = [value for value in values[start : start + each] if value is not None]
        own = steps[start : start + each]
        xs.append(sum(own) / len(own))
        if not part:
            ys.append(float("nan"))
        else:
            ys.append(max(part) if highest else sum(part) / len(part))
    return Points(xs, ys, each)


@contextmanager
def picture(rows: Sequence[int] = (1,)) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty picture with panels below each other.

    Args:
        rows: how high each is, relative to the others.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "ida-tui", "path.simplify": True,
        "font.family": "sans-serif", "font.size": 9.5, "text.color": INK, "axes.edgecolor": QUIET,
        "axes.labelcolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET, "grid.color": GRID,
        "axes.grid": True, "axes.grid.axis": "y", "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "grid.linewidth": 0.8,
        "xtick.labelcolor": QUIET, "ytick.labelcolor": QUIET, "ytick.major.size": 0,
        "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9.5,
        "lines.linewidth": 1.6, "text.usetex": False, "text.parse_math": False,
        "axes.unicode_minus": True, "lines.solid_capstyle": "round", "axes.formatter.useoffset": False,
    }  # fmt: skip
    # Whatever a person's own matplotlibrc says, the picture is the same.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update(style)
        figure = Figure(figsize=INCHES, layout="constrained")
        made = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=list(rows))
        yield figure, [axes[0] for axes in made]


def draw(
    axes: Axes,
    points: Points,
    number: int,
    label: str = "",
    *,
    width: float = 1.6,
    alpha: float = 1,
) -> None:
    """One curve; `number` chooses colour and pattern, so that curves differ without colour too."""
    few = len(points.steps) <= MARKED
    axes.plot(
        points.steps, points.values, PATTERNS[number % len(PATTERNS)], color=LINES[number],
        label=label or None, linewidth=width, alpha=alpha, clip_on=False,
        marker="o" if few else None, markersize=2.2,
    )  # fmt: skip


def legend(axes: Axes, columns: int = 4) -> None:
    """Names of the curves, above them, side by side."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.02), ncols=columns, handlelength=1.8,
            columnspacing=1.2, borderaxespad=0.2, labelcolor=INK,
        )  # fmt: skip


def over_steps(axes: Axes, steps: Sequence[float]) -> None:
    """Whole steps on the horizontal axis of the lowest panel."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    if steps:
        room = max(0.5, (steps[-1] - steps[0]) * 0.02)
        axes.set_xlim(steps[0] - room, steps[-1] + room)


def svg(figure: Figure, said: str) -> str:
    """The picture as an ``<svg>`` element for a page.

    Args:
        figure: the picture.
        said: what it shows, for whoever cannot see it; escaped by this.
    """
    from markupsafe import escape

    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    # Several pictures on a page: an id that nobody refers to would only be there twice.
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var({name})")
    # In the page's font, whichever way this version of matplotlib names its own.
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r"font: ((?:\w+ )?[\d.]+px)[^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"\n\s*", "\n", text)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    # Referred to as HTML has it; the namespaces are the page's.
    text = text[head.end() :].replace("xlink:href", "href")
    return f'<svg {box[0]} role="img" aria-label="{escape(said)}">{text}'
