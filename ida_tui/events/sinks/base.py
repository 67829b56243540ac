"""What a sink is, and which figures it gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ida_tui.events import types as ev

Note: TypeAlias = ev.EvaluationFinished | ev.AlertRaised
"""What happens beside the steps and is worth keeping elsewhere."""
Settings: TypeAlias = Mapping[str, str | int | float | bool | None]
"""What a run was made with, such as ``training.learning_rate``."""

LENGTHS = ("lengths/mean", "lengths/shortest", "lengths/longest")


@dataclass(frozen=True, slots=True)
class Place:
    """The run that a sink is told about."""

    directory: Path
    experiment: str
    run_id: str
    settings: Settings
    """Without texts and without secrets."""
    resumed_from: int | None = None
    """The last step that counts of those that were sent before; null for a new run."""


class Sink(Protocol):
    """Somewhere that figures are sent to. Called on a thread of its own; may take its time, may raise."""

    name: str
    """As in ``report_to``."""

    def start(self, place: Place) -> str:
        """Open the run, or go on with it; returns a line for the log, or nothing."""

    def step(self, step: ev.StepFinished) -> None:
        """Keep the figures of a step."""

    def note(self, note: Note) -> None:
        """Keep an evaluation or an alert."""

    def end(self, ended: ev.RunEnded) -> str:
        """Finish; returns a line for the log, such as where the run can be seen, or nothing."""


def figures(step: ev.StepFinished) -> dict[str, float]:
    """Every figure of a step that is known, under the name that it has in ``events.jsonl``.

    Seconds by phase are ``seconds/<phase>``; the three lengths are `LENGTHS`.
    """
    return dict(_flat(step))


def figures_of(note: Note) -> dict[str, float]:
    """The figures of an evaluation (``before/harmless_complied``), or the mark of an alert."""
    if isinstance(note, ev.AlertRaised):
        return {f"alert/{note.rule}": 1}
    return {f"{note.when}/{name}": value for name, value in _flat(note)}


def _flat(event: ev.StepFinished | ev.EvaluationFinished) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(event):
        value: Any = getattr(event, field.name)
        if isinstance(value, bool):
            yield field.name, int(value)
        elif isinstance(value, int | float):
            yield field.name, value
        elif field.name == "lengths" and value is not None:
            yield from zip(LENGTHS, value, strict=True)
        elif isinstance(value, Mapping):
            yield from ((f"{field.name}/{key}", item) for key, item in value.items())
