"""Checks of a training run before its directory is created: device, model, reporters and memory."""

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
    """Result of the checks: what the run needs to start."""

    config: Config
    """The profile, with its ``auto`` values resolved by the memory plan."""
    device: DeviceName
    recipe: Recipe
    tokenizer: Any
    limit: float
    """Memory limit, in bytes."""
    notes: tuple[str, ...] = ()
    """Warnings to show before the run starts."""


def preflight(config: Config, where: Place = ALONE) -> Preflight:
    """Choose the device, check the run and load the tokenizer; imports torch.

    Args:
        config: the resolved profile.
        process: rank and world size of this process.

    Raises:
        IdaError: the device is missing or fails its self-test, a reporter is not installed, the model
            cannot be read, or the run does not fit into its memory limit (exit code 4).
    """
    environment.prepare(config.model.folder())
    from ida_tui.engine.device import device
    from ida_tui.engine.diagnostics import selftest
    from ida_tui.engine.model import load as weights

    device_name = device.choose(config.device)
    several.require(config, device_name, where)
    device.take(device_name, where.local)
    device.leave_a_core()
    _require_reporters(config)
    vllm.require(config, device_name)
    if device_name != "cpu":
        selftest.require(device_name)
    limit = memory.limit(config, device.total_memory(device_name) or room().total)
    # Processes on the CPU share the machine's memory; each CUDA device has its own.
    process_limit = limit / where.local_world if device_name == "cpu" else limit
    config = memory.chosen(config, device_name, process_limit)
    warning = _require_room(part_of(config, where.world), device_name, process_limit)
    if warning and not config.training.save_steps:
        training = config.training.model_copy(update={"save_steps": 1})
        config = config.model_copy(update={"training": training})
    return Preflight(
        config=config,
        device=device_name,
        recipe=precision.recipe(config, device_name),
        tokenizer=weights.load_tokenizer(config.model),
        limit=limit,
        notes=(warning,) if warning else (),
    )


def _require_room(config: Config, device: DeviceName, limit: float) -> str:
    """A warning if the plan exceeds the limit and ``over_limit`` is ``try``; empty if the plan fits.

    Raises:
        IdaError: the run does not fit (exit code 4).
    """
    planned = memory.plan(config, device)
    if planned is None or planned.total <= limit:
        return ""
    if config.over_limit == "try":
        return (
            f"the plan is about {planned.total / 1e9:.1f} GB, the limit {limit / 1e9:.1f} GB: every step is"
            " saved"
        )
    raise IdaError(
        f"the run does not fit: it needs about {planned.total / 1e9:.1f} GB, the limit is"
        f" {limit / 1e9:.1f} GB",
        f"{memory.advice(config, device, limit)}\nTo start anyway: over_limit=try",
        where="limit_gb",
        code=ExitCode.OUT_OF_MEMORY,
    )


def _require_reporters(config: Config) -> None:
    for name in config.report_to:
        spec = find_spec(name)
        # A folder of the same name, such as W&B's ./wandb, has a spec without an origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"report_to names {name}, which is not installed",
                f"uv sync --extra {name}   (or pip install 'ida-tui[{name}]')",
                where="report_to",
            )
