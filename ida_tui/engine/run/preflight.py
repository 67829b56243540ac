"""Checks of a training run before its directory is created: device, model, reporters and memory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ida_tui.config import precision
from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import libraries
from ida_tui.engine.distributed.environment import SINGLE_PROCESS, ProcessInfo, per_rank_config
from ida_tui.engine.run import several, vllm
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.planning import memory
from ida_tui.system.memory_limit import memory_limit


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """Result of the checks: what the run needs to start."""

    config: Config
    """The profile, with its ``auto`` values resolved by the memory plan."""
    device: DeviceName
    recipe: PrecisionRecipe
    tokenizer: Any
    limit: float
    """Memory limit, in bytes."""
    notes: tuple[str, ...] = ()
    """Warnings to show before the run starts."""


def run_preflight(config: Config, process: ProcessInfo = SINGLE_PROCESS) -> PreflightResult:
    """Choose the device, check the run and load the tokenizer; imports torch.

    Args:
        config: the resolved profile.
        process: rank and world size of this process.

    Raises:
        IdaError: the device is missing or fails its self-test, a reporter is not installed, the model
            cannot be read, or the run does not fit into its memory limit (exit code 4).
    """
    libraries.set_library_defaults(config.model.folder())
    from ida_tui.engine.device import device
    from ida_tui.engine.diagnostics import selftest
    from ida_tui.engine.model import load

    device_name = device.choose_device(config.device)
    several.check_distributed(config, device_name, process)
    device.select_cuda_device(device_name, process.local_rank)
    device.limit_threads()
    _check_reporters(config)
    vllm.require_vllm(config, device_name)
    if device_name != "cpu":
        selftest.require_self_test(device_name)
    limit = memory.resolve_limit(config, device.total_memory(device_name) or memory_limit().total)
    # Processes on the CPU share the machine's memory; each CUDA device has its own.
    process_limit = limit / process.local_world_size if device_name == "cpu" else limit
    config = memory.resolve_auto(config, device_name, process_limit)
    warning = _check_memory(per_rank_config(config, process.world_size), device_name, process_limit)
    if warning and not config.training.save_steps:
        training = config.training.model_copy(update={"save_steps": 1})
        config = config.model_copy(update={"training": training})
    return PreflightResult(
        config=config,
        device=device_name,
        recipe=precision.resolve_precision(config, device_name),
        tokenizer=load.load_tokenizer(config.model),
        limit=limit,
        notes=(warning,) if warning else (),
    )


def _check_memory(config: Config, device: DeviceName, limit: float) -> str:
    """A warning if the plan exceeds the limit and ``over_limit`` is ``try``; empty if the plan fits.

    Raises:
        IdaError: the run does not fit (exit code 4).
    """
    planned = memory.plan(config, device)
    if planned is None or planned.peak_bytes <= limit:
        return ""
    if config.over_limit == "try":
        return (
            f"the plan is about {planned.peak_bytes / 1e9:.1f} GB, the limit {limit / 1e9:.1f} GB: every step is"
            " saved"
        )
    raise IdaError(
        f"the run does not fit: it needs about {planned.peak_bytes / 1e9:.1f} GB, the limit is"
        f" {limit / 1e9:.1f} GB",
        f"{memory.reduction_hint(config, device, limit)}\nTo start anyway: over_limit=try",
        where="limit_gb",
        code=ExitCode.OUT_OF_MEMORY,
    )


def _check_reporters(config: Config) -> None:
    for name in config.report_to:
        spec = find_spec(name)
        # A folder of the same name, such as W&B's ./wandb, has a spec without an origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"report_to names {name}, which is not installed",
                f"uv sync --extra {name}   (or pip install 'ida-tui[{name}]')",
                where="report_to",
            )
