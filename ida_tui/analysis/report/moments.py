"""Per-step data for a report that the run state does not store: memory and judge batches.

A single pass over ``events.jsonl`` that parses only relevant lines, so that long runs load quickly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ida_tui.events import types as ev
from ida_tui.events.state import run_memory
from ida_tui.runs.log.reader import decode_line

_TYPE_PATTERN = re.compile(rb'"type": "(\w+)"')
_TYPE_WITHIN_BYTES = 120
"""Number of leading bytes of a line that contain its event type."""
_RELEVANT_TYPES = {
    b"RunStarted",
    b"PhaseChanged",
    b"RolloutStarted",
    b"MemorySampled",
    b"JudgeBatchFinished",
}


@dataclass(slots=True)
class StepExtras:
    """Memory and judge batches by step, and kinds by prompt."""

    peak_bytes: dict[int, int] = field(default_factory=dict)
    """Step → peak memory in bytes; step 0 is the time before the first step."""
    judge_batches: dict[int, ev.JudgeBatchFinished] = field(default_factory=dict)
    """Step → judge batch; the latest one if a step was repeated."""
    prompt_kinds: dict[str, str] = field(default_factory=dict)
    """Prompt id → ``harmless`` or ``unsafe``."""

    @property
    def latency_s(self) -> tuple[float, float] | None:
        """Median of the per-batch median latencies, and the largest 95th percentile, in seconds."""
        p50 = [batch.p50_s for batch in self.judge_batches.values() if batch.p50_s is not None]
        p95 = [batch.p95_s for batch in self.judge_batches.values() if batch.p95_s is not None]
        return (median(p50), max(p95)) if p50 and p95 else None


def load_step_extras(path: Path) -> StepExtras:
    """The per-step data of an event file.

    Raises:
        OSError: the file cannot be read.
        EventError: a relevant line is not a valid event.
    """
    extras, run, step = StepExtras(), None, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            kind = _TYPE_PATTERN.search(line, 0, _TYPE_WITHIN_BYTES)
            if not line.endswith(b"\n") or kind is None or kind[1] not in _RELEVANT_TYPES:
                continue
            event = decode_line(line, f"{path}:{number}").event
            match event:
                case ev.RunStarted():
                    run = event
                case ev.PhaseChanged():
                    step = event.step
                case ev.RolloutStarted():
                    extras.prompt_kinds |= dict(zip(event.prompt_ids, event.kinds, strict=False))
                case ev.MemorySampled():
                    extras.peak_bytes[step] = max(
                        extras.peak_bytes.get(step, 0), run_memory(run, event)
                    )
                case ev.JudgeBatchFinished():
                    extras.judge_batches[event.step] = event
    return extras
