"""Everything about a run that can be refused before its directory is made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ida_tui import precision
from ida_tui.config import Config, DeviceName
from ida_tui.engine import environment
from ida_tui.errors import UsageError
from ida_tui.precision import Recipe


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known once a run may start."""

    device: DeviceName
    recipe: Recipe
    tokenizer: Any


def preflight(config: Config) -> Preflight:
    """Choose the device and load what costs little; imports torch.

    Raises:
        IdaError: the device is not there, a reporter is not installed, or the model cannot be read.
    """
    environment.prepare(config.model.folder())
    from ida_tui.engine import device, weights

    chosen = device.choose(config.device)
    device.leave_a_core()
    _require_reporters(config)
    return Preflight(
        device=chosen,
        recipe=precision.recipe(config, chosen),
        tokenizer=weights.load_tokenizer(config.model),
    )


def _require_reporters(config: Config) -> None:
    for name in config.report_to:
        if find_spec(name) is None:
            raise UsageError(
                f"report_to names {name}, which is not installed",
                f"uv sync --extra {name}   (or pip install 'ida-tui[{name}]')",
                where="report_to",
            )
