"""The memory of one process, now and at its most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a process holds, and the most that it ever held."""

    now: int
    peak: int
