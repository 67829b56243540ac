"""Advantages as TRL's GRPO trainer makes them of rewards, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

Scale = Literal["group", "batch", "none"]

EPSILON = 1e-4
"""What TRL adds to the standard deviation that it divides by."""


def advantages(groups: Sequence[Sequence[float | None]], scale: Scale) -> list[list[float]]:
    """The advantages of one step's completions.

    Args:
        groups: the rewards of each group; None where there was no verdict.
        scale: what they are divided by: the standard deviation of their group, that of the whole step
            (`batch`), or nothing.

    Returns:
        As many as there are rewards, in their order: reward − mean of the group, divided. 0 where there
        is no reward, or no standard deviation because only one is known.
    """
    whole = _deviation([reward for group in groups for reward in group])
    out = []
    for group in groups:
        known = [reward for reward in group if reward is not None]
        mean = fmean(known) if known else 0.0
        by = {"none": 1.0, "batch": whole, "group": _deviation(group)}[scale]
        # TRL works with NaN: what cannot be divided ends as 0.
        divisor = by if scale == "none" else None if by is None else by + EPSILON
        out.append(
            [
                0.0 if reward is None or divisor is None else (reward - mean) / divisor
                for reward in group
            ]
        )
    return out


def _deviation(rewards: Sequence[float | None]) -> float | None:
    """The standard deviation of a sample; None of fewer than two."""
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2:
        return None
    mean = fmean(known)
    return math.sqrt(sum((reward - mean) ** 2 for reward in known) / (len(known) - 1))
