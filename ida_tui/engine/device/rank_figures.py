"""Memory use and generation speed of one process, for `StepFinished.ranks`."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ida_tui.engine.device import device as devices
from ida_tui.events.types import RankFigures
from ida_tui.system.memory import MemorySensor


def measure_rank(tokens: int, seconds: Mapping[str, float], device: Any) -> RankFigures:
    """Measure this process after a step.

    Args:
        tokens: number of tokens it has generated in the step.
        seconds: seconds per phase of the step.
        device: the torch device that it computes on.

    Returns:
        Host name, process memory, device tensors and device cache (bytes), tokens, tokens per second.
    """
    sample = MemorySensor().sample(devices.memory(device.type))
    generate_s = seconds.get("generate", 0.0)
    return (
        socket.gethostname(),
        sample.process,
        sample.device_tensors,
        sample.device_cache,
        tokens,
        round(tokens / generate_s, 1) if generate_s else 0.0,
    )
