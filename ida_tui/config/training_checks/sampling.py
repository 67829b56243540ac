"""Checks of `training.sampling_weights`: the engine, the device and the weights that it needs."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.precision import resolve_precision
from ida_tui.config.schema import Config, DeviceName
from ida_tui.util.finding import Finding, error_finding

KEY = "training.sampling_weights"
OFF = "set sampling_weights to model"


def check_sampling_weights(config: Config, device: DeviceName) -> Iterator[Finding]:
    """Errors about runs that cannot draw completions with other weights; nothing if the option is off."""
    wanted = config.training.sampling_weights
    if wanted == "model":
        return
    if config.engine != "fast":
        yield error_finding(
            KEY,
            "TRL's own sampling uses the model's own weights",
            f"set engine to fast, or {OFF}",
            "engine",
        )
        return
    if device != "cpu":
        yield error_finding(
            KEY,
            f"{wanted} weights for sampling exist on the CPU only, and this run uses {device}",
            f"{OFF}, or device to cpu",
            "device",
        )
        return
    if config.model.quantization != "none":
        yield error_finding(
            KEY,
            f"the frozen weights are packed already ({config.model.quantization})",
            f"{OFF}, or model.quantization to none",
            "model.quantization",
        )
        return
    precision = resolve_precision(config, device)
    if precision.weights != "float32" or precision.bf16 or precision.fp16:
        computed = precision.weights if precision.weights != "float32" else "16-bit autocast"
        yield error_finding(
            KEY,
            f"it needs weights and products in float32, but this run uses {computed}",
            f"set model.torch_dtype to float32, or {OFF}",
            "model.torch_dtype",
            "training.bf16",
            "training.fp16",
        )
