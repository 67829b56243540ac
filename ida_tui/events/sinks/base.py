"""The `Sink` protocol and the metrics that a sink receives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ida_tui.events import types as ev

SinkEvent: TypeAlias = ev.EvaluationFinished | ev.AlertRaised
"""Events other than steps that sinks record."""
Settings: TypeAlias = Mapping[str, str | int | float | bool | None]
"""Settings of a run by flat name, such as `training.learning_rate`."""

REFUSAL_FIGURES = ("harmless", "harmless_refused", "unsafe", "unsafe_declined")
"""Figures of a step that only runs with harmless or unsafe prompts have."""
LENGTH_NAMES = ("lengths/mean", "lengths/shortest", "lengths/longest")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run whose metrics a sink receives."""

    directory: Path
    experiment: str
    run_id: str
    settings: Settings
    """Without texts and without secrets."""
    axes: tuple[str, ...]
    """Names of the axes, in order."""
    has_kinds: bool = True
    """Whether its prompts are harmless or unsafe, so that refusals are counted."""
    resumed_from: int | None = None
    """The step of the checkpoint that the run resumed from; None for a new run. Later steps are repeated."""


class Sink(Protocol):
    """A destination for metrics; its methods run on a separate thread, may be slow and may raise."""

    name: str
    """Its name in `report_to`."""

    def start(self, run: RunInfo) -> str:
        """Open a new or resumed run; returns a line for the log, or an empty string."""

    def step(self, step: ev.StepFinished) -> None:
        """Record the metrics of a step."""

    def note(self, note: SinkEvent) -> None:
        """Record an evaluation or an alert."""

    def end(self, ended: ev.RunEnded) -> str:
        """Finish; returns a line for the log, such as where to view the run, or an empty string."""


def step_metrics(step: ev.StepFinished) -> dict[str, float]:
    """All known metrics of a step, named as in `events.jsonl`.

    The scores are named `scores/<axis>`, the seconds of each phase `seconds/<phase>` and
    `least_seconds/<phase>`, the three lengths as in `LENGTH_NAMES`.
    """
    return dict(_iterate_metrics(step))


def event_metrics(note: SinkEvent) -> dict[str, float]:
    """The metrics of an evaluation, such as `before/harmless_complied`, or a 1 that marks an alert."""
    if isinstance(note, ev.AlertRaised):
        return {f"alert/{note.rule}": 1}
    return {f"{note.when}/{name}": value for name, value in _iterate_metrics(note)}


def _iterate_metrics(event: ev.StepFinished | ev.EvaluationFinished) -> Iterator[tuple[str, float]]:
    has_kinds = event.harmless or event.unsafe
    for field in dataclasses.fields(event):
        if not has_kinds and field.name.startswith(("harmless", "unsafe")):
            continue
        value: Any = getattr(event, field.name)
        if field.name == "unlabeled" and not value:
            continue
        if isinstance(value, bool):
            yield field.name, int(value)
        elif isinstance(value, int | float):
            yield field.name, value
        elif field.name == "lengths" and value is not None:
            yield from zip(LENGTH_NAMES, value, strict=True)
        elif isinstance(value, Mapping):
            yield from (
                (f"{field.name}/{key}", item) for key, item in value.items() if item is not None
            )
