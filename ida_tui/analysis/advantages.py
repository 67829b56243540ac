"""GRPO advantages of a step, computed as TRL computes them but without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

RewardScale = Literal["group", "batch", "none"]

STD_EPSILON = 1e-4
"""Added to the standard deviation before the division, as in TRL."""


def compute_advantages(
    groups: Sequence[Sequence[float | None]], scale: RewardScale
) -> list[list[float]]:
    """Compute the advantages of one step's completions.

    Args:
        groups: the rewards of each group; None for a failed verdict.
        scale: the divisor: the standard deviation of the group (`group`), that of all rewards of the
            step (`batch`), or 1 (`none`).

    Returns:
        One list per group, in the order of the rewards: (reward − group mean) / divisor. 0 where the
        reward is None, or where fewer than two rewards leave the standard deviation undefined.
    """
    step_deviation = _sample_std([reward for group in groups for reward in group])
    advantages_by_group = []
    for group in groups:
        scored = [reward for reward in group if reward is not None]
        mean = fmean(scored) if scored else 0.0
        deviation = {"none": 1.0, "batch": step_deviation, "group": _sample_std(group)}[scale]
        # TRL computes with NaN and replaces an undefined advantage by 0.
        divisor = deviation if scale == "none" or deviation is None else deviation + STD_EPSILON
        advantages_by_group.append(
            [
                0.0 if reward is None or divisor is None else (reward - mean) / divisor
                for reward in group
            ]
        )
    return advantages_by_group


def _sample_std(rewards: Sequence[float | None]) -> float | None:
    """The sample standard deviation of the rewards; None for fewer than two."""
    scored = [reward for reward in rewards if reward is not None]
    if len(scored) < 2:
        return None
    mean = fmean(scored)
    return math.sqrt(sum((reward - mean) ** 2 for reward in scored) / (len(scored) - 1))
