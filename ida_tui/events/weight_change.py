"""Change of a run's weights for a reader: its name, its size, and what it is relative to.

`model_change` is that of the whole model. Runs of older versions only have `weight_delta`, which with LoRA is
the adapter's distance from its random start and is not comparable with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.events import types as ev
from ida_tui.util.format import UNKNOWN


@dataclass(frozen=True, slots=True)
class WeightMovement:
    """How far the weights of a run have moved since its start."""

    name: str
    """`weights moved`, or `adapter moved` for the adapter of an older run."""
    share: float
    """L2 norm of the change over the L2 norm at the start."""
    basis: str
    """The norm that it is relative to, such as `relative L2 norm, whole model`."""
    is_of_model: bool
    """Whether it is the change of the model, not of its adapter alone."""


def weight_movement(finished: ev.StepFinished | ev.RunEnded, method: str) -> WeightMovement:
    """The change of the weights up to the end of a step or of a run.

    Args:
        finished: the step, or the end of the run.
        method: `lora` or `full`.
    """
    if method == "full":
        share = finished.weight_delta if finished.model_change is None else finished.model_change
        return WeightMovement("weights moved", share, "relative L2 norm, sampled", True)
    if finished.model_change is None:
        return WeightMovement("adapter moved", finished.weight_delta, "relative L2 norm", False)
    return WeightMovement(
        "weights moved", finished.model_change, "relative L2 norm, whole model", True
    )


def format_movement(share: float | None) -> str:
    """A relative change as a percentage, with two significant digits below 0.1%: `3.14%`, `0.0046%`."""
    if share is None:
        return UNKNOWN
    percent = 100 * share
    return f"{percent:.2f}%" if percent >= 0.1 or not percent else f"{percent:.2g}%"
