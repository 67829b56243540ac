"""What has to hold before several processes train one profile."""

from __future__ import annotations

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.distributed.environment import Place, sharding, shared
from ida_tui.errors import ExitCode, IdaError, UsageError


def require(config: Config, device: DeviceName, where: Place) -> None:
    """Refuse what several processes cannot do.

    Raises:
        IdaError: the step cannot be divided among them, they would share a device, or the launcher asks for
            a division of the model that is not done here.
    """
    if divides := sharding():
        raise UsageError(
            f"accelerate asks for {divides}, which divides the model; ida-tui trains data parallel, the whole"
            " model on each device",
            f"accelerate config without {divides} (distributed type MULTI_GPU, or MULTI_CPU), or torchrun;\n"
            "a model that does not fit on one device: training.method=lora, or a smaller one",
        )
    if where.alone:
        return
    shared(config.training, where.world)
    if device == "mps":
        raise IdaError(
            f"{where.world} processes cannot share the one GPU of a Mac",
            "start one: ida-tui --run PROFILE; or device=cpu, where several can work",
            code=ExitCode.DEVICE_UNUSABLE,
        )
