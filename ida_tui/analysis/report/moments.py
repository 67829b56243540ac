"""Per-step data for a report that the run state does not store: memory and judge batches.

A single pass over ``events.jsonl`` that parses only relevant lines, so that long runs load quickly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ida_tui.events import types as ev
from ida_tui.events.state import held_by
from ida_tui.runs.log.lines import decoded

_KIND = re.compile(rb'"type": "(\w+)"')
_HEAD = 120
"""Number of leading bytes of a line that contain its event type."""
_READ = {b"RunStarted", b"PhaseChanged", b"RolloutStarted", b"MemorySampled", b"JudgeBatchFinished"}


@dataclass(slots=True)
class Moments:
    """Memory and judge batches by step, and kinds by prompt."""

    memory: dict[int, int] = field(default_factory=dict)
    """Step → peak memory in bytes; step 0 is the time before the first step."""
    batches: dict[int, ev.JudgeBatchFinished] = field(default_factory=dict)
    """Step → judge batch; the latest one if a step was repeated."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Prompt id → ``harmless`` or ``unsafe``."""

    @property
    def latency_s(self) -> tuple[float, float] | None:
        """Median of the per-batch median latencies, and the largest 95th percentile, in seconds."""
        p50 = [batch.p50_s for batch in self.batches.values() if batch.p50_s is not None]
        p95 = [batch.p95_s for batch in self.batches.values() if batch.p95_s is not None]
        return (median(p50), max(p95)) if p50 and p95 else None


def moments(path: Path) -> Moments:
    """The per-step data of an event file.

    Raises:
        OSError: the file cannot be read.
        EventError: a relevant line is not a valid event.
    """
    extras, run, step = Moments(), None, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            kind = _KIND.search(line, 0, _HEAD)
            if not line.endswith(b"\n") or kind is None or kind[1] not in _READ:
                continue
            event = decoded(line, f"{path}:{number}").event
            match event:
                case ev.RunStarted():
                    run = event
                case ev.PhaseChanged():
                    step = event.step
                case ev.RolloutStarted():
                    extras.kinds |= dict(zip(event.prompt_ids, event.kinds, strict=False))
                case ev.MemorySampled():
                    extras.memory[step] = max(extras.memory.get(step, 0), held_by(run, event))
                case ev.JudgeBatchFinished():
                    extras.batches[event.step] = event
    return extras
