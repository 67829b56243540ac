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
    """
    sample = MemorySensor().sample(devices.memory(device.type))
    generate_s = seconds.get("generate", 0.0)
    return RankFigures(
        host=socket.gethostname(),
        process_memory=sample.process,
        device_tensors=sample.device_tensors,
        device_cache=sample.device_cache,
        tokens=tokens,
        tokens_per_s=round(tokens / generate_s, 1) if generate_s else 0.0,
    )
