"""Curves as lines of text, for commands that print and end. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.util.statistics import mean_of

BLOCKS = "▁▂▃▄▅▆▇█"


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
