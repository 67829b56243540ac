"""Line plots over steps, drawn with braille dots. Pure functions from values to styled text.

Every line has its own dot pattern, a label with its newest value at the right end, and its own color, so the
plot is readable without color. Existing plotting widgets for Textual took 43 to 56 ms to redraw three lines,
and the trainer waits for the interpreter during that time. `benchmarks/ui.py` measures the cost of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from textual.content import Content

from ida_tui.events.history import Column
from ida_tui.util.format import format_general, format_number
from ida_tui.util.statistics import mean_of_known

_DOT_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of each braille dot, by column (left, right) and then row from the top."""
_BLANK = 0x2800


class LineStyle(NamedTuple):
    """Color and dot pattern of a line. Lines of one plot differ in both, so that color is not needed."""

    color: str
    """A Textual style, such as `$accent`."""
    pattern: tuple[int, ...]
    """Repeating mask of dot columns: `(1,)` is solid, `(1, 1, 1, 0, 0)` is dashed."""


SOLID, DASHED, DOTTED, DASH_DOT = (1,), (1, 1, 1, 1, 0, 0), (1, 0, 0), (1, 1, 1, 0, 1, 0)
REWARD_STYLE = LineStyle("$text-accent", SOLID)
"""Style of the reward of one run."""
AXIS_STYLES = (
    LineStyle("$text-primary", DASHED),
    LineStyle("$text-warning", DOTTED),
    LineStyle("$text-success", DASH_DOT),
    LineStyle("$text-error", (1, 1, 0)),
    LineStyle("$foreground", (1, 0)),
    LineStyle("$text-secondary", (1, 1, 1, 0)),
    LineStyle("$text-primary", (1, 0, 0, 0, 0)),
    LineStyle("$text-warning", (1, 1, 1, 1, 0, 1, 0)),
)
"""Style of each axis of one run, in order."""
PointShape = tuple[tuple[int, int], ...]
"""Dots of a point, as columns and rows from its own."""
HELD_OUT_STYLES: tuple[tuple[str, PointShape], ...] = (
    ("$text-success", ((0, 0), (1, 0), (0, 1), (1, 1))),
    ("$text-primary", ((0, 0), (0, 1), (0, 2))),
    ("$text-warning", ((0, 0), (1, 0), (2, 0))),
)
"""Color and shape of the points of each curve of the held-out prompts: reward, answered, declined."""
RUN_STYLES = (
    LineStyle("$text-accent", SOLID),
    LineStyle("$text-primary", DASHED),
    LineStyle("$text-success", DOTTED),
    LineStyle("$text-warning", DASH_DOT),
    LineStyle("$text-error", (1, 1, 0)),
    LineStyle("$foreground", (1, 0)),
)
"""Style of each run in a comparison of runs."""


@dataclass(frozen=True, slots=True)
class PlotLine:
    """One line of a plot.

    Args:
        name: label at the right end of the line.
        values: one per step; None leaves a gap.
        style: its color, as in `LineStyle`.
        pattern: its dot pattern, as in `LineStyle`.
        digits: decimals of the newest value in the label.
        scale: lowest and highest value of its own scale; None is that of the plot.
        points: shape of each value, which is drawn without a line to the next; empty draws a line.
    """

    name: str
    values: Sequence[float | None]
    style: str
    pattern: tuple[int, ...] = (1,)
    digits: int = 1
    scale: tuple[float, float] | None = None
    points: PointShape = ()


def draw_plot(
    lines: Sequence[PlotLine],
    *,
    low: float,
    high: float,
    width: int,
    height: int,
    first: int = 1,
    axis: bool = True,
) -> Content:
    """Draw lines over steps.

    Args:
        lines: drawn in this order, later lines on top.
        low: value at the bottom.
        high: value at the top.
        width: total columns, including labels.
        height: total rows, including the step axis.
        first: step of the first value.
        axis: whether to draw the step axis.

    Returns:
        `height` rows of `width` columns.
    """
    labels = [_label(line) for line in lines]
    left = max(3, *(len(_format_tick(value)) for value in (low, (low + high) / 2, high))) + 1
    right = max(map(len, labels), default=0) + 1
    rows, columns = height - axis, width - left - right
    if rows < 1 or columns < 2:
        return Content("\n".join([" " * width] * height))
    dots = [[0] * columns for _ in range(rows)]
    owner = [[-1] * columns for _ in range(rows)]
    ends: list[int | None] = []
    for number, line in enumerate(lines):
        scale = line.scale or (low, high)
        if line.points:
            heights = _point_rows(line.values, 2 * columns, 4 * rows, *scale)
            _draw_points(heights, line.points, number, dots, owner)
        else:
            heights = _dot_rows(line.values, 2 * columns, 4 * rows, *scale)
            _draw_line(heights, line.pattern, number, dots, owner)
        known = [h for h in heights if h is not None]
        ends.append(known[-1] // 4 if known else None)
    placed = _spread_labels([end for end in ends if end is not None], rows)
    places = iter(placed)
    at = {next(places): n for n, end in enumerate(ends) if end is not None}
    hidden = len(placed) - rows + 1 if len(placed) > rows else 0
    out: list[Content] = []
    for row in range(rows):
        parts: list[tuple[str, str] | str] = [(_y_label(row, rows, low, high, left), "dim")]
        parts += _styled_parts(dots[row], owner[row], lines)
        if hidden and row == rows - 1:
            parts.append((f" {f'+{hidden} more':<{right - 1}}"[:right], "dim"))
        elif row in at:
            label = f" {labels[at[row]]}"
            parts.append((f"{label:<{right}}", lines[at[row]].style))
        else:
            parts.append(" " * right)
        out.append(Content.assemble(*parts))
    if axis:
        count = max((len(line.values) for line in lines), default=0)
        out.append(_x_axis(first, count, columns, left, right))
    return Content("\n").join(out)


def _label(line: PlotLine) -> str:
    newest = next((value for value in reversed(line.values) if value is not None), None)
    return f"{line.name} {format_number(newest, line.digits)}" if newest is not None else ""


def _format_tick(value: float) -> str:
    return format_general(value)


def _dot_rows(
    values: Sequence[float | None], columns: int, levels: int, low: float, high: float
) -> list[int | None]:
    """The dot row of each dot column, counted from the top; None for a gap."""
    count = len(values)

    def level(value: float) -> int:
        return _dot_row(value, levels, low, high)

    if count == 0:
        return [None] * columns
    if count == 1:
        only = values[0]
        return [None if only is None else level(only)] + [None] * (columns - 1)
    if count > columns:
        # More steps than dot columns: draw the mean of the steps that share a column.
        edges = [column * count // columns for column in range(columns + 1)]
        means = (_mean(values, start, stop) for start, stop in pairwise(edges))
        return [None if mean is None else level(mean) for mean in means]
    values = list(values)
    out: list[int | None] = []
    for column in range(columns):
        position = column * (count - 1) / (columns - 1)
        index = int(position)
        a, b = values[index], values[min(index + 1, count - 1)]
        if a is None or b is None:
            nearest = a if position - index < 0.5 else b
            out.append(None if nearest is None else level(nearest))
        else:
            out.append(level(a + (b - a) * (position - index)))
    return out


def _dot_row(value: float, levels: int, low: float, high: float) -> int:
    """The dot row of a value, counted from the top."""
    share, lowest = (value - low) / (high - low), levels - 1
    return 0 if share >= 1 else lowest if share <= 0 else round((1 - share) * lowest)


def _point_rows(
    values: Sequence[float | None], columns: int, levels: int, low: float, high: float
) -> list[int | None]:
    """The dot row of each dot column that has a value; None for all others."""
    rows: list[int | None] = [None] * columns
    for position, value in enumerate(values):
        if value is not None:
            column = round(position * (columns - 1) / max(1, len(values) - 1))
            rows[column] = _dot_row(value, levels, low, high)
    return rows


def _draw_points(
    heights: Sequence[int | None],
    shape: PointShape,
    number: int,
    dots: list[list[int]],
    owner: list[list[int]],
) -> None:
    """Draw each value with this shape, moved as far as needed to lie within the plot."""
    last_column = 2 * len(dots[0]) - 1 - max(column for column, _ in shape)
    last_row = 4 * len(dots) - 1 - max(row for _, row in shape)
    for x, height in enumerate(heights):
        if height is not None:
            for column, row in shape:
                column, row = (
                    max(0, min(x, last_column)) + column,
                    max(0, min(height, last_row)) + row,
                )
                dots[row // 4][column // 2] |= _DOT_BITS[column % 2][row % 4]
                owner[row // 4][column // 2] = number


def _mean(values: Sequence[float | None], start: int, stop: int) -> float | None:
    if isinstance(values, Column):
        return values.mean(start, stop)
    return mean_of_known(values[start:stop])


def _draw_line(
    heights: Sequence[int | None],
    pattern: tuple[int, ...],
    number: int,
    dots: list[list[int]],
    owner: list[list[int]],
) -> None:
    previous: int | None = None
    for x, height in enumerate(heights):
        if height is not None and pattern[x % len(pattern)]:
            start = height if previous is None else previous
            # Fill the column between the previous and the current level, so steep lines have no holes.
            step = 1 if height >= start else -1
            for y in range(start + (step if start != height else 0), height + step, step):
                row, column = y // 4, x // 2
                dots[row][column] |= _DOT_BITS[x % 2][y % 4]
                owner[row][column] = number
        previous = height


def _styled_parts(
    dots: Sequence[int], owner: Sequence[int], lines: Sequence[PlotLine]
) -> list[tuple[str, str] | str]:
    parts: list[tuple[str, str] | str] = []
    start = 0
    for column in range(1, len(dots) + 1):
        if column == len(dots) or owner[column] != owner[start]:
            text = "".join(chr(_BLANK + bits) if bits else " " for bits in dots[start:column])
            parts.append(text if owner[start] < 0 else (text, lines[owner[start]].style))
            start = column
    return parts


def _spread_labels(wanted: Sequence[int], rows: int) -> list[int]:
    """Distinct rows for the labels, as close as possible to the wanted rows, in input order."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    placed = [0] * len(wanted)
    lowest = -1
    for rank, n in enumerate(order):
        # Leave rows below for the remaining labels, if possible.
        most = rows - (len(order) - rank)
        lowest = max(lowest + 1, min(wanted[n], most))
        placed[n] = lowest
    return placed


def _y_label(row: int, rows: int, low: float, high: float, left: int) -> str:
    if row == 0:
        text = _format_tick(high)
    elif row == rows - 1:
        text = _format_tick(low)
    elif row == (rows - 1) / 2 and rows >= 5:
        text = _format_tick((low + high) / 2)
    else:
        return " " * (left - 1) + "│"
    return f"{text:>{left - 1}}┤"


def _x_axis(first: int, count: int, columns: int, left: int, right: int) -> Content:
    """The first and last step, and round steps between them if they fit."""
    row = [" "] * columns
    last = first + count - 1
    if count > 0:
        _write_text(row, 0, str(first))
    if count > 1:
        _write_text(row, columns - len(str(last)), str(last))
        every = _tick_interval(count, max(1, columns // 12))
        for step in range(first - first % every + every, last, every):
            middle = round((step - first) * (columns - 1) / (count - 1))
            start = middle - len(str(step)) // 2
            free = range(max(0, start - 2), min(columns, start + len(str(step)) + 2))
            if step > first and start > 0 and all(row[c] == " " for c in free):
                _write_text(row, start, str(step))
    text = f"{'':{left}}{''.join(row)}{' step':<{right}}"[: left + columns + right]
    return Content.assemble((text, "dim"))


def _write_text(row: list[str], start: int, text: str) -> None:
    for offset, letter in enumerate(text):
        if 0 <= start + offset < len(row):
            row[start + offset] = letter


def _tick_interval(count: int, ticks: int) -> int:
    size = 1
    while True:
        for factor in (1, 2, 5):
            if count / (size * factor) <= ticks:
                return size * factor
        size *= 10
