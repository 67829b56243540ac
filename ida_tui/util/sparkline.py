"""Sparklines: curves drawn as one line of block characters. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.util.statistics import mean_of_known

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(
    values: Sequence[float | None],
    *,
    low: float,
    high: float,
    width: int = 40,
    steps: int | None = None,
) -> str:
    """A curve as a row of block characters; a block that covers several steps shows their mean.

    Args:
        values: one value per step; None leaves a gap.
        low: value of the lowest block.
        high: value of the highest block.
        width: maximum number of columns.
        steps: number of steps that the full width covers; columns after the last value stay empty.
    """
    total = max(steps or 0, len(values))
    columns = min(width, total)
    blocks = []
    for column in range(columns):
        start = column * total // columns
        stop = max(start + 1, (column + 1) * total // columns)
        mean = mean_of_known(list(values[start:stop])) if start < len(values) else None
        if mean is None:
            blocks.append(" ")
        else:
            fraction = (mean - low) / (high - low) if high > low else 0.0
            blocks.append(BLOCKS[round(min(1.0, max(0.0, fraction)) * (len(BLOCKS) - 1))])
    return "".join(blocks)
