"""Work that rank 0 announces, and that all ranks of a sharded model do together.

Of a sharded model each rank holds a part, so no rank can compute or save alone. Between steps, before and
after them, and while rank 0 judges, the other ranks wait for its announcements (`ProcessGroup.follow`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A call of the model without gradients."""

    method: Literal["generate", "forward"]
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Gather the state of the last finished step, which rank 0 writes."""


@dataclass(frozen=True, slots=True)
class GatherWeights:
    """Gather the final weights, which rank 0 writes."""
