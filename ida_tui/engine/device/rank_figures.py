"""What one process of a run holds and how fast it is, for `StepFinished.ranks`."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ida_tui.engine.device import device as devices
from ida_tui.events.types import RankFigures
from ida_tui.system.memory import MemorySensor


def figures(tokens: int, seconds: Mapping[str, float], device: Any) -> RankFigures:
    """The figures of this process after a step.

    Args:
        tokens: what it has sampled in the step.
        seconds: what the parts of the step have taken it.
        device: torch's device that it computes on.
    """
    held = MemorySensor().sample(devices.memory(device.type))
    spent = seconds.get("generate", 0.0)
    return (
        socket.gethostname(),
        held.process,
        held.device_tensors,
        held.device_cache,
        tokens,
        round(tokens / spent, 1) if spent else 0.0,
    )
