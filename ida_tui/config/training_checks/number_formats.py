"""Checks of the number formats of weights and autocast, and of the attention that needs 16 bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from ida_tui.config.precision import (
    PrecisionRecipe,
    PrecisionRow,
    nearest_supported,
    resolve_precision,
)
from ida_tui.config.schema import Config, DeviceName
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.util.finding import Finding, error_finding, note_finding


def check_precision(config: Config, device: DeviceName) -> Iterator[Finding]:
    """Errors and notes about combinations of number formats on a device."""
    training, precision = config.training, resolve_precision(config, device)
    if training.fp16 is True and training.bf16 is True:
        yield error_finding(
            "training.bf16",
            "fp16 and bf16 are both enabled",
            "enable only one: fp16 on mps, bf16 on cuda; auto chooses by device",
            "training.fp16",
        )
        return
    packs_trained_weights = training.method == "full" and config.model.quantization != "none"
    alternative = nearest_supported(config, device)
    if alternative is not None and not packs_trained_weights:  # `check_quantization` reports that
        yield error_finding(*_unsupported_precision(training, device, precision, alternative))
    if device == "mps" and precision.bf16:
        yield note_finding(
            "training.bf16",
            "the shipped profiles are not tuned for bf16 on mps",
            "set bf16 to auto, which selects fp16 with a gradient scaler on mps",
        )
    if device == "cpu" and training.fp16 is True:
        yield note_finding(
            "training.fp16",
            "fp16 has no effect on the CPU; the run uses float32",
            "set fp16 to auto, which enables it only on mps",
        )


def check_attention(config: Config, device: DeviceName) -> Iterator[Finding]:
    """An error about flash attention where it cannot run."""
    if config.model.attn_implementation != "flash_attention_2":
        return
    precision = resolve_precision(config, device)
    if device != "cuda":
        reason = f"flash_attention_2 needs a CUDA GPU, but this run uses {device}"
    elif precision.weights == "float32" and not (precision.fp16 or precision.bf16):
        reason = "flash_attention_2 computes only in 16 bits, but this run uses float32"
    elif importlib.util.find_spec("flash_attn") is None:
        reason = "flash_attention_2 needs the package flash-attn, which is not installed"
    else:
        return
    yield error_finding(
        "model.attn_implementation", reason, "set attn_implementation to sdpa", "model.torch_dtype"
    )


def _unsupported_precision(
    training: TrainingConfig,
    device: DeviceName,
    precision: PrecisionRecipe,
    alternative: PrecisionRow,
) -> tuple[str, ...]:
    """Key, text, fix and related keys for number formats that are not in the table."""
    fix = f"the closest combination that works: {alternative.settings()}"
    if training.method == "full" and precision.weights == "float16":
        reason = (
            "the gradient scaler cannot unscale the gradients of float16 weights"
            if precision.fp16
            else "full training in pure float16 destroys the weights"
        )
        fix = (
            "use training.method: lora, or model.torch_dtype: float32 (fp16 autocast still works),"
            " or bfloat16"
        )
        return "model.torch_dtype", reason, fix, "training.method"
    if device == "mps" and precision.fp16 and precision.optim == "adamw_torch_fused":
        reason = (
            "on mps, fused AdamW applies steps that overflowed in fp16 instead of skipping them"
        )
        return (
            "training.optim",
            reason,
            "set optim to auto or adamw_torch",
            "training.fp16",
            "device",
        )
    if (
        training.method == "full"
        and precision.weights == "bfloat16"
        and precision.optim != "adamw_kahan"
    ):
        reason = (
            f"with {precision.optim}, most updates are too small for bfloat16 weights and are lost"
        )
        return "training.optim", reason, "set optim to auto or adamw_kahan", "model.torch_dtype"
    if precision.weights == "float16" and not precision.fp16:
        reason = "without a gradient scaler, small gradients underflow in float16"
        return "training.fp16", reason, fix, "model.torch_dtype"
    autocast = "fp16" if precision.fp16 else "bf16" if precision.bf16 else "no"
    packed = "" if precision.quantization == "none" else f"{precision.quantization} and "
    reason = (
        f"{training.method} with {packed}{precision.weights} weights, {autocast} autocast and"
        f" {precision.optim} is not known to learn on {device}"
    )
    return "model.torch_dtype", reason, fix, "training.fp16", "training.bf16", "training.optim"
