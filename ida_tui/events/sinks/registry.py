"""Sinks by name, as listed in `report_to`, and the profile settings that are sent to them.

Settings are numbers and names, but no texts, URLs or API keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ida_tui.config.schema import Config
from ida_tui.events.sinks.base import Settings, Sink

COMPLETE_SECTIONS = ("training", "lora", "evaluation")
TOP_LEVEL_FIELDS = ("name", "device", "engine", "seed")
SECTION_FIELDS = {
    "model": ("name", "path", "revision", "dtype"),
    "judge": ("name", "model", "samples"),
    "rubric": ("name",),
    "prompts": ("name",),
}
"""Fields that are sent from sections that also contain texts or URLs."""


def create_sinks(names: Iterable[str]) -> list[Sink]:
    """One sink per name, without duplicates; opens nothing and imports no third-party package yet."""
    from ida_tui.events.sinks.csv import CsvSink
    from ida_tui.events.sinks.tensorboard import TensorBoardSink
    from ida_tui.events.sinks.trackio import TrackioSink
    from ida_tui.events.sinks.wandb import WandbSink

    types: dict[str, type[Sink]] = {
        sink.name: sink for sink in (CsvSink, TensorBoardSink, TrackioSink, WandbSink)
    }
    return [types[name]() for name in dict.fromkeys(names)]


def sink_settings(config: Config, redact: Callable[[str], str]) -> Settings:
    """The profile as flat names and plain values.

    Args:
        config: the resolved profile.
        redact: removes secrets from a text.
    """
    dumped = config.model_dump(mode="json")
    selected: dict[str, Any] = {
        name: dumped[name] for name in (*TOP_LEVEL_FIELDS, *COMPLETE_SECTIONS)
    }
    for section, names in SECTION_FIELDS.items():
        selected[section] = {
            name: dumped[section][name] for name in names if name in dumped[section]
        }
    return {
        name: redact(value) if isinstance(value, str) else value
        for name, value in _flatten(selected)
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{name}", value
