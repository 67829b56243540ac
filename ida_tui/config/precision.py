"""Supported combinations of device, method, weight format, autocast and optimizer.

A profile's settings must match a row of the table; otherwise `ida_tui.config.checks` rejects them and
suggests the closest row. fp16 autocast on the CPU, which does not exist, is replaced by float32 with a note
in the log.
`tests/engine/model/test_precision.py` trains every row and shows that the omitted combinations fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ida_tui.config.model_files import overflows_float16
from ida_tui.config.schema import Config, DeviceName, ModelConfig, Quantization
from ida_tui.config.sections.training import TrainingConfig

WeightFormat = Literal["float32", "float16", "bfloat16"]
Autocast = Literal["fp16", "bf16", "none"]
TrainingMethod = Literal["lora", "full"]


@dataclass(frozen=True, slots=True)
class PrecisionRow:
    """One combination of number formats that trains correctly.

    Args:
        device: the device.
        method: LoRA or full training; an adapter is float32 in every row.
        weights: data type of the base weights; of packed ones, that of the other weights.
        autocast: data type of autocast; fp16 includes a gradient scaler.
        optimizers: supported optimizers; the first one is used for `optim: auto`.
        reason: the reason that it works.
        quantization: how the linear layers are packed.
    """

    device: DeviceName
    method: TrainingMethod
    weights: WeightFormat
    autocast: Autocast
    optimizers: tuple[str, ...]
    reason: str
    quantization: Quantization = "none"

    def settings(self) -> str:
        """The row as `key=value` settings of a profile."""
        fp16, bf16 = (str(self.autocast == name).lower() for name in ("fp16", "bf16"))
        packed = "" if self.quantization == "none" else f" model.quantization={self.quantization}"
        return (
            f"training.method={self.method} model.torch_dtype={self.weights}{packed}"
            f" training.fp16={fp16} training.bf16={bf16} training.optim={self.optimizers[0]}"
        )


ADAM_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor")
FUSED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor")
# Fused AdamW on Metal ignores the scaler's overflow flag and applies overflowed steps.
SCALER_OPTIMIZERS = ("adamw_torch", "adafactor")
KAHAN_OPTIMIZERS = ("adamw_kahan",)

WHY_SCALER = (
    "the scaler lifts small gradients into float16's range; a float32 adapter allows unscaling"
)
WHY_MASTER_WEIGHTS = "float32 weights preserve updates of any size; matrix products use 16 bits"
WHY_FLOAT32 = "float32 throughout"
WHY_BFLOAT16 = (
    "bfloat16 has float32's range, so it needs no scaler;"
    " the float32 adapter preserves small updates"
)
WHY_PACKED = (
    "the packed weights are unpacked to this format for every product; the adapter is float32"
)
WHY_KAHAN = "Kahan summation adds each update's rounding error to the next update"

PACKED_FORMATS: tuple[tuple[DeviceName, WeightFormat, Autocast, tuple[str, ...]], ...] = (
    ("mps", "float16", "fp16", ("adamw_torch",)),
    ("mps", "bfloat16", "bf16", ("adamw_torch",)),
    ("mps", "float32", "none", ("adamw_torch",)),
    ("cuda", "bfloat16", "bf16", ("adamw_torch_fused", "adamw_torch")),
    ("cuda", "float16", "fp16", ("adamw_torch",)),
    ("cuda", "float32", "none", ("adamw_torch",)),
    ("cpu", "float32", "none", ("adamw_torch",)),
    ("cpu", "bfloat16", "none", ("adamw_torch",)),
)
"""Device, weight format, autocast and optimizers of each row for packed layers, in 4 and in 8 bits."""

PRECISION_TABLE = (
    # `auto` selects the first row with the same device, method and weights.
    PrecisionRow("mps", "lora", "float16", "fp16", SCALER_OPTIMIZERS, WHY_SCALER),
    PrecisionRow("mps", "lora", "float32", "fp16", SCALER_OPTIMIZERS, WHY_SCALER),
    PrecisionRow("mps", "lora", "float32", "none", ADAM_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("mps", "lora", "bfloat16", "bf16", ADAM_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("mps", "lora", "float32", "bf16", ADAM_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("mps", "full", "float32", "fp16", SCALER_OPTIMIZERS, WHY_MASTER_WEIGHTS),
    PrecisionRow("mps", "full", "float32", "none", ADAM_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("mps", "full", "float32", "bf16", ADAM_OPTIMIZERS, WHY_MASTER_WEIGHTS),
    PrecisionRow("mps", "full", "bfloat16", "none", KAHAN_OPTIMIZERS, WHY_KAHAN),
    PrecisionRow("cuda", "lora", "bfloat16", "bf16", FUSED_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("cuda", "lora", "float32", "bf16", FUSED_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("cuda", "lora", "float32", "none", FUSED_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("cuda", "lora", "float16", "fp16", FUSED_OPTIMIZERS, WHY_SCALER),
    PrecisionRow("cuda", "lora", "float32", "fp16", FUSED_OPTIMIZERS, WHY_SCALER),
    PrecisionRow("cuda", "full", "float32", "bf16", FUSED_OPTIMIZERS, WHY_MASTER_WEIGHTS),
    PrecisionRow("cuda", "full", "float32", "fp16", FUSED_OPTIMIZERS, WHY_MASTER_WEIGHTS),
    PrecisionRow("cuda", "full", "float32", "none", FUSED_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("cuda", "full", "bfloat16", "none", KAHAN_OPTIMIZERS, WHY_KAHAN),
    PrecisionRow("cpu", "lora", "float32", "none", ADAM_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("cpu", "lora", "float32", "bf16", ADAM_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("cpu", "lora", "bfloat16", "none", ADAM_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("cpu", "lora", "bfloat16", "bf16", ADAM_OPTIMIZERS, WHY_BFLOAT16),
    PrecisionRow("cpu", "full", "float32", "none", ADAM_OPTIMIZERS, WHY_FLOAT32),
    PrecisionRow("cpu", "full", "float32", "bf16", ADAM_OPTIMIZERS, WHY_MASTER_WEIGHTS),
    PrecisionRow("cpu", "full", "bfloat16", "none", KAHAN_OPTIMIZERS, WHY_KAHAN),
    *(
        PrecisionRow(device, "lora", weights, autocast, optimizers, WHY_PACKED, quantization)
        for quantization in get_args(Quantization)[1:]
        for device, weights, autocast, optimizers in PACKED_FORMATS
    ),
)


@dataclass(frozen=True, slots=True)
class PrecisionRecipe:
    """Data types and optimizer of one run."""

    weights: WeightFormat
    """Data type of the base weights; of packed ones, that of the other weights."""
    fp16: bool
    """Whether to use fp16 autocast with a gradient scaler."""
    bf16: bool
    """Whether to use bf16 autocast."""
    optim: str
    """The optimizer, named as in `training.optim`."""
    beta2: float = 0.999
    """Second-moment decay of the optimizer."""
    notes: tuple[str, ...] = ()
    """Settings that were replaced, as messages for the user."""
    quantization: Quantization = "none"
    """How the linear layers are packed."""

    @property
    def base_format(self) -> str:
        """Format of the base weights, in which most of them are held."""
        return self.weights if self.quantization == "none" else self.quantization

    def describe(self, method: TrainingMethod) -> str:
        """The recipe as one line of text."""
        parts = [f"{self.base_format} {'base' if method == 'lora' else 'weights'}"]
        if self.quantization != "none":
            parts.append(f"unpacked to {self.weights}")
        if method == "lora":
            parts.append("float32 adapter")
        if self.fp16:
            parts.append("fp16 autocast with a gradient scaler")
        if self.bf16:
            parts.append("bf16 autocast")
        return ", ".join([*parts, self.optim])


def resolve_precision(config: Config, device: DeviceName) -> PrecisionRecipe:
    """The data types and optimizer for a profile on a device, whether supported or not."""
    training, notes = config.training, []
    if device == "cpu" and training.fp16 is True:
        # accelerate would silently ignore it.
        notes.append("fp16 autocast is not available on the CPU; training in float32 instead")
    weights, weight_notes = _resolve_weights(config.model, training, device)
    autocast = _resolve_autocast(config.model, training, device, weights)
    packed = config.model.quantization
    row = _find_row(device, training.method, weights, autocast, packed)
    optim: str = training.optim
    if optim == "auto":
        optim = row.optimizers[0] if row else "adamw_torch"
    return PrecisionRecipe(
        weights=weights,
        fp16="fp16" in autocast,
        bf16="bf16" in autocast,
        optim=optim,
        beta2=_resolve_beta2(training, optim),
        notes=(*notes, *weight_notes),
        quantization=packed,
    )


def nearest_supported(config: Config, device: DeviceName) -> PrecisionRow | None:
    """The supported row closest to a profile's settings; None if these are supported themselves."""
    requested, method = resolve_precision(config, device), config.training.method
    autocast = "fp16" if requested.fp16 else "bf16" if requested.bf16 else "none"
    packed = requested.quantization
    supported = _find_row(device, method, requested.weights, autocast, packed)
    if supported is not None and requested.optim in supported.optimizers:
        return None
    return max(
        (row for row in PRECISION_TABLE if row.device == device),
        key=lambda row: (
            row.quantization == packed,
            row.method == method,
            row.weights == requested.weights,
            row.autocast == autocast,
            requested.optim in row.optimizers,
        ),
    )


def _resolve_beta2(training: TrainingConfig, optim: str) -> float:
    """Second-moment decay: the profile's value, else 0.99 for a bfloat16 moment and 0.999 otherwise.

    A bfloat16 number changes only in steps of at least 1/256 of its value. With 0.999 the second moment
    would not decay, and gradients of unchanged size would not make it grow.
    """
    if training.adam_beta2 != "auto":
        return training.adam_beta2
    return 0.99 if optim in KAHAN_OPTIMIZERS else 0.999


def _find_row(
    device: DeviceName,
    method: TrainingMethod,
    weights: WeightFormat,
    autocast: str,
    quantization: Quantization,
) -> PrecisionRow | None:
    key = (device, method, weights, autocast, quantization)
    return next(
        (
            r
            for r in PRECISION_TABLE
            if (r.device, r.method, r.weights, r.autocast, r.quantization) == key
        ),
        None,
    )


def _auto_rows(
    model: ModelConfig, training: TrainingConfig, device: DeviceName
) -> list[PrecisionRow]:
    """The rows for a device and a method; the first one that fits the settings is used for `auto`."""
    # Packed layers cannot be trained in full, which `config.checks` reports.
    packed = model.quantization if training.method == "lora" else "none"
    key = (device, training.method, packed)
    rows = [r for r in PRECISION_TABLE if (r.device, r.method, r.quantization) == key]
    if rows[0].autocast == "fp16" and overflows_float16(model):
        rows = [r for r in rows if r.autocast != "fp16"]
        rows.sort(key=lambda r: (r.autocast != "bf16", r.weights != "bfloat16"))
    return rows


def _resolve_autocast(
    model: ModelConfig, training: TrainingConfig, device: DeviceName, weights: WeightFormat
) -> str:
    """The requested autocast; for `auto`, that of the first matching row of the table."""
    if training.fp16 == "auto" and training.bf16 == "auto":
        rows = _auto_rows(model, training, device)
        return next((r.autocast for r in rows if r.weights == weights), "none")
    default = {"mps": "fp16", "cuda": "bf16", "cpu": "none"}[device]
    fp16 = training.fp16 is True or (
        training.fp16 == "auto" and default == "fp16" and training.bf16 is not True
    )
    bf16 = training.bf16 is True or (training.bf16 == "auto" and default == "bf16" and not fp16)
    fp16 = fp16 and device != "cpu"
    return "fp16 and bf16" if fp16 and bf16 else "fp16" if fp16 else "bf16" if bf16 else "none"


def _resolve_weights(
    model: ModelConfig, training: TrainingConfig, device: DeviceName
) -> tuple[WeightFormat, list[str]]:
    if model.torch_dtype == "auto":
        rows = _auto_rows(model, training, device)
        if training.optim in KAHAN_OPTIMIZERS:
            return "bfloat16", []
        if training.bf16 is True:
            rows = [r for r in rows if r.autocast == "bf16"]
        return next(row.weights for row in rows), []
    if model.torch_dtype == "float16" and device == "cpu":
        return "float32", ["float16 weights are not supported on the CPU; loading them as float32"]
    return model.torch_dtype, []
