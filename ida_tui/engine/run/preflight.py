"""Everything about a run that can be refused before its directory is made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ida_tui.config import precision
from ida_tui.config.precision import Recipe
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import libraries as environment
from ida_tui.engine.distributed.environment import ALONE, Place, part_of
from ida_tui.engine.run import several, vllm
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.planning import memory
from ida_tui.system.memory_limit import room


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known once a run may start."""

    config: Config
    """The profile, with what it leaves to the memory plan filled in."""
    device: DeviceName
    recipe: Recipe
    tokenizer: Any
    limit: float
    """Memory to stay under, in bytes."""
    notes: tuple[str, ...] = ()
    """What a person should know before it starts."""


def preflight(config: Config, where: Place = ALONE) -> Preflight:
    """Choose the device and load what costs little; imports torch.

    Args:
        config: the resolved profile.
        where: this process among those that train together.

    Raises:
        IdaError: the device is not there or computes wrongly, a reporter is not installed, the model
            cannot be read, or the run does not fit into the memory that it may use (exit code 4).
    """
    environment.prepare(config.model.folder())
    from ida_tui.engine.device import device
    from ida_tui.engine.diagnostics import selftest
    from ida_tui.engine.model import load as weights

    chosen = device.choose(config.device)
    several.require(config, chosen, where)
    device.take(chosen, where.local)
    device.leave_a_core()
    _require_reporters(config)
    vllm.require(config, chosen)
    if chosen != "cpu":
        selftest.require(chosen)
    most = memory.limit(config, device.total_memory(chosen) or room().total)
    # On the CPU the processes of a machine share its memory; each CUDA device has its own.
    each = most / where.local_world if chosen == "cpu" else most
    config = memory.chosen(config, chosen, each)
    over = _require_room(part_of(config, where.world), chosen, each)
    if over and not config.training.save_steps:
        every = config.training.model_copy(update={"save_steps": 1})
        config = config.model_copy(update={"training": every})
    return Preflight(
        config=config,
        device=chosen,
        recipe=precision.recipe(config, chosen),
        tokenizer=weights.load_tokenizer(config.model),
        limit=most,
        notes=(over,) if over else (),
    )


def _require_room(config: Config, device: DeviceName, most: float) -> str:
    """Nothing where the plan fits; a warning where it does not and is tried all the same.

    Raises:
        IdaError: it does not fit (exit code 4).
    """
    planned = memory.plan(config, device)
    if planned is None or planned.total <= most:
        return ""
    if config.over_limit == "try":
        return (
            f"about {planned.total / 1e9:.1f} GB are planned, the limit is {most / 1e9:.1f} GB: every step"
            " is saved"
        )
    raise IdaError(
        f"the run does not fit: about {planned.total / 1e9:.1f} GB are needed, the limit is"
        f" {most / 1e9:.1f} GB",
        f"{memory.advice(config, device, most)}\nover_limit=try starts it all the same",
        where="limit_gb",
        code=ExitCode.OUT_OF_MEMORY,
    )


def _require_reporters(config: Config) -> None:
    for name in config.report_to:
        found = find_spec(name)
        # A folder of the same name, such as W&B's own ./wandb, is found without an origin.
        if found is None or found.origin is None:
            raise UsageError(
                f"report_to names {name}, which is not installed",
                f"uv sync --extra {name}   (or pip install 'ida-tui[{name}]')",
                where="report_to",
            )
