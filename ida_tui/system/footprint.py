"""Current and peak memory of one process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Current and peak memory of a process, in bytes."""

    current: int
    peak: int
