"""Preflight checks for runs with several processes."""

from __future__ import annotations

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.distributed.environment import ProcessInfo, sharding_backend, split_batch
from ida_tui.errors import ExitCode, IdaError, UsageError


def check_distributed(config: Config, device: DeviceName, process: ProcessInfo) -> None:
    """Check that a profile can be trained by the given processes.

    Raises:
        IdaError: the step cannot be divided among the processes, they would share a device, or the launcher
            is configured to shard the model, which is not supported.
    """
    if backend := sharding_backend():
        raise UsageError(
            f"accelerate is configured for {backend}, which shards the model; ida-tui only trains"
            " data-parallel, with a full copy of the model on each device",
            f"run accelerate config without {backend} (type MULTI_GPU or MULTI_CPU), or use torchrun;\n"
            "if the model does not fit on one device: training.method=lora, or a smaller model",
        )
    if process.is_single:
        return
    split_batch(config.training, process.world_size)
    if device == "mps":
        raise IdaError(
            f"{process.world_size} processes cannot share the GPU of a Mac",
            "start a single process: ida-tui --run PROFILE; or set device=cpu, which supports several",
            code=ExitCode.DEVICE_UNUSABLE,
        )
