"""What a report needs of every step and the state does not keep: memory, and the judge's batches.

One pass over ``events.jsonl``. Only the few lines that matter are parsed, so that a long run is read quickly.
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
"""The type of a line stands in so many bytes of it."""
_READ = {b"RunStarted", b"PhaseChanged", b"RolloutStarted", b"MemorySampled", b"JudgeBatchFinished"}


@dataclass(slots=True)
class Moments:
    """What happened step by step."""

    memory: dict[int, int] = field(default_factory=dict)
    """Most that was held during each step, in bytes; step 0 is all that came before the first."""
    batches: dict[int, ev.JudgeBatchFinished] = field(default_factory=dict)
    """The judge's batch of each step; the newest, where a step was done again."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Prompt id → ``harmless`` or ``unsafe``."""

    @property
    def latency_s(self) -> tuple[float, float] | None:
        """Median over the steps of the batches' medians, and the largest 95th percentile."""
        p50 = [batch.p50_s for batch in self.batches.values() if batch.p50_s is not None]
        p95 = [batch.p95_s for batch in self.batches.values() if batch.p95_s is not None]
        return (median(p50), max(p95)) if p50 and p95 else None


def moments(path: Path) -> Moments:
    """Read them.

    Raises:
        OSError: the file cannot be read.
        EventError: a line that had to be read is no event.
    """
    found, run, step = Moments(), None, 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            kind = _KIND.search(raw, 0, _HEAD)
            if not raw.endswith(b"\n") or kind is None or kind[1] not in _READ:
                continue
            event = decoded(raw, f"{path}:{number}").event
            match event:
                case ev.RunStarted():
                    run = event
                case ev.PhaseChanged():
                    step = event.step
                case ev.RolloutStarted():
                    found.kinds |= dict(zip(event.prompt_ids, event.kinds, strict=False))
                case ev.MemorySampled():
                    found.memory[step] = max(found.memory.get(step, 0), held_by(run, event))
                case ev.JudgeBatchFinished():
                    found.batches[event.step] = event
    return found
