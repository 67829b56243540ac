"""Curves and tables as lines of text, for commands that print and end. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.statistics import mean_of

BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST = 44
"""Columns of one cell; what is longer is cut."""


def curve(
    values: Sequence[float | None],
    *,
    low: float,
    high: float,
    width: int = 40,
    steps: int | None = None,
) -> str:
    """A curve as a row of blocks; where several steps share one it stands for their mean.

    Args:
        values: one a step; None leaves a gap.
        low: the value of the lowest block.
        high: the value of the highest.
        width: columns.
        steps: how many steps the whole width stands for; the rest stays empty.
    """
    whole = max(steps or 0, len(values))
    columns = min(width, whole)
    out = []
    for column in range(columns):
        start = column * whole // columns
        stop = max(start + 1, (column + 1) * whole // columns)
        mean = mean_of(list(values[start:stop])) if start < len(values) else None
        if mean is None:
            out.append(" ")
        else:
            share = (mean - low) / (high - low) if high > low else 0.0
            out.append(BLOCKS[round(min(1.0, max(0.0, share)) * (len(BLOCKS) - 1))])
    return "".join(out)


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A label and cells a row, in columns as wide as they have to be.

    Args:
        head: names of the columns after the first.
        rows: each has as many cells as the head.
    """
    cells = [[_cut(cell) for cell in row] for _, row in rows]
    first = max((len(label) for label, _ in rows), default=0)
    columns = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    out = []
    for label, row in (
        ("", head),
        *((label, row) for (label, _), row in zip(rows, cells, strict=True)),
    ):
        texts = [f"{cell:<{width}}" for cell, width in zip(row, columns, strict=True)]
        out.append("   ".join([f"  {label:<{first}}", *texts]).rstrip())
    return out


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
