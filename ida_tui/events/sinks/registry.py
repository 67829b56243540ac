"""What of a profile is sent elsewhere: figures and names; no texts, no addresses, no keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ida_tui.config.schema import Config
from ida_tui.events.sinks.base import Settings

SECTIONS = ("training", "lora", "evaluation")
VALUES = ("name", "device", "engine", "seed")
PARTS = {
    "model": ("name", "path", "revision", "dtype"),
    "judge": ("name", "model", "samples"),
    "rubric": ("name",),
    "prompts": ("name",),
}
"""What is told of the parts that have more to them than figures."""


def settings(config: Config, redact: Callable[[str], str]) -> Settings:
    """The profile as flat names and plain values.

    Args:
        config: the resolved profile.
        redact: takes secrets out of a text.
    """
    whole = config.model_dump(mode="json")
    kept: dict[str, Any] = {name: whole[name] for name in (*VALUES, *SECTIONS)}
    for part, names in PARTS.items():
        kept[part] = {name: whole[part][name] for name in names if name in whole[part]}
    return {name: redact(value) if isinstance(value, str) else value for name, value in _flat(kept)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{name}", value
