"""Number formats by device: one table of what trains, and in which format the weights are held.

Whatever a profile asks is a row of `TABLE`, or it is refused by `ida_tui.config.checks` with the nearest row, or
(fp16 on the CPU, which does not exist there) it is replaced with a note that the log shows.
`tests/engine/test_precision.py` trains every row, and shows that what is left out fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ida_tui.config.schema import Config, DeviceName, ModelConfig, TrainingConfig

Format = Literal["float32", "float16", "bfloat16"]
Autocast = Literal["fp16", "bf16", "none"]
Method = Literal["lora", "full"]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training that works.

    Args:
        device: where.
        method: what is trained; an adapter's numbers are float32 in every row.
        weights: format of the model's weights.
        autocast: format that products are computed in; fp16 comes with a gradient scaler.
        optims: optimizers that work with it, the one that ``optim: auto`` takes first.
        why: what makes it work.
    """

    device: DeviceName
    method: Method
    weights: Format
    autocast: Autocast
    optims: tuple[str, ...]
    why: str

    def settings(self) -> str:
        """The row as a profile states it."""
        fp16, bf16 = (str(self.autocast == name).lower() for name in ("fp16", "bf16"))
        return (
            f"training.method={self.method} model.torch_dtype={self.weights}"
            f" training.fp16={fp16} training.bf16={bf16} training.optim={self.optims[0]}"
        )


ADAM = ("adamw_torch", "adamw_torch_fused", "adafactor")
FUSED = ("adamw_torch_fused", "adamw_torch", "adafactor")
# Metal's fused AdamW does not look at the scaler's verdict: it applies steps that overflowed.
SCALED = ("adamw_torch", "adafactor")
KAHAN = ("adamw_kahan",)

SCALER = "the scaler lifts small gradients into float16's range; a float32 adapter can be unscaled"
MASTER = "float32 weights take updates of any size; products are computed in 16 bits"
PLAIN = "float32 throughout"
RANGE = "bfloat16 has float32's range, so no scaler; the float32 adapter keeps small updates"
COMPENSATED = "what rounding takes from an update is kept and added to the next (Kahan's sum)"

TABLE = (
    # The first row of a device and method whose weights fit is what `auto` means.
    Row("mps", "lora", "float16", "fp16", SCALED, SCALER),
    Row("mps", "lora", "float32", "fp16", SCALED, SCALER),
    Row("mps", "lora", "float32", "none", ADAM, PLAIN),
    Row("mps", "lora", "bfloat16", "bf16", ADAM, RANGE),
    Row("mps", "lora", "float32", "bf16", ADAM, RANGE),
    Row("mps", "full", "float32", "fp16", SCALED, MASTER),
    Row("mps", "full", "float32", "none", ADAM, PLAIN),
    Row("mps", "full", "float32", "bf16", ADAM, MASTER),
    Row("mps", "full", "bfloat16", "none", KAHAN, COMPENSATED),
    Row("cuda", "lora", "bfloat16", "bf16", FUSED, RANGE),
    Row("cuda", "lora", "float32", "bf16", FUSED, RANGE),
    Row("cuda", "lora", "float32", "none", FUSED, PLAIN),
    Row("cuda", "lora", "float16", "fp16", FUSED, SCALER),
    Row("cuda", "lora", "float32", "fp16", FUSED, SCALER),
    Row("cuda", "full", "float32", "bf16", FUSED, MASTER),
    Row("cuda", "full", "float32", "fp16", FUSED, MASTER),
    Row("cuda", "full", "float32", "none", FUSED, PLAIN),
    Row("cuda", "full", "bfloat16", "none", KAHAN, COMPENSATED),
    Row("cpu", "lora", "float32", "none", ADAM, PLAIN),
    Row("cpu", "lora", "float32", "bf16", ADAM, RANGE),
    Row("cpu", "lora", "bfloat16", "none", ADAM, RANGE),
    Row("cpu", "lora", "bfloat16", "bf16", ADAM, RANGE),
    Row("cpu", "full", "float32", "none", ADAM, PLAIN),
    Row("cpu", "full", "float32", "bf16", ADAM, MASTER),
    Row("cpu", "full", "bfloat16", "none", KAHAN, COMPENSATED),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How numbers are held and computed in one run."""

    weights: Format
    """Format of the base weights."""
    fp16: bool
    """fp16 autocast with a gradient scaler."""
    bf16: bool
    """bf16 autocast."""
    optim: str
    """The optimizer, by the profile's name."""
    beta2: float = 0.999
    """Decay of the optimizer's second moment."""
    notes: tuple[str, ...] = ()
    """What was asked for and replaced; each is shown to the user."""

    def words(self, method: Method) -> str:
        """The recipe as one line for people."""
        parts = [f"{self.weights} {'base' if method == 'lora' else 'weights'}"]
        if method == "lora":
            parts.append("float32 adapter")
        if self.fp16:
            parts.append("fp16 autocast with a gradient scaler")
        if self.bf16:
            parts.append("bf16 autocast")
        return ", ".join([*parts, self.optim])


def recipe(config: Config, device: DeviceName) -> Recipe:
    """The recipe for a profile on a device; `refusal` says whether it works."""
    training, notes = config.training, []
    if device == "cpu" and training.fp16 is True:
        # accelerate would ignore it without a word.
        notes.append("fp16 autocast does not exist on the CPU: training in float32 instead")
    weights, weight_notes = _weights(config.model, training, device)
    autocast = _autocast(training, device, weights)
    found = _row(device, training.method, weights, autocast)
    optim: str = training.optim
    if optim == "auto":
        optim = found.optims[0] if found else "adamw_torch"
    return Recipe(
        weights=weights,
        fp16="fp16" in autocast,
        bf16="bf16" in autocast,
        optim=optim,
        beta2=_beta2(training, optim),
        notes=(*notes, *weight_notes),
    )


def nearest(config: Config, device: DeviceName) -> Row | None:
    """The row of the table most like what a profile asks; None where what it asks is a row itself."""
    asked, method = recipe(config, device), config.training.method
    autocast = "fp16" if asked.fp16 else "bf16" if asked.bf16 else "none"
    found = _row(device, method, asked.weights, autocast)
    if found is not None and asked.optim in found.optims:
        return None
    return max(
        (row for row in TABLE if row.device == device),
        key=lambda row: (
            row.method == method,
            row.weights == asked.weights,
            row.autocast == autocast,
            asked.optim in row.optims,
        ),
    )


def _beta2(training: TrainingConfig, optim: str) -> float:
    """The profile's, or one whose moment does not stand still in the format that it is held in.

    In bfloat16 a number changes only by steps of 1/256 of itself or more: at 0.999 the second moment would
    neither decay nor, from gradients as large as before, grow.
    """
    if training.adam_beta2 != "auto":
        return training.adam_beta2
    return 0.99 if optim in KAHAN else 0.999


def _row(device: DeviceName, method: Method, weights: Format, autocast: str) -> Row | None:
    asked = (device, method, weights, autocast)
    return next(
        (r for r in TABLE if (r.device, r.method, r.weights, r.autocast) == asked),
        None,
    )


def _autocast(training: TrainingConfig, device: DeviceName, weights: Format) -> str:
    """What is asked for, or what the table's first row for these weights has."""
    if training.fp16 == "auto" and training.bf16 == "auto":
        rows = (r for r in TABLE if (r.device, r.method) == (device, training.method))
        return next((r.autocast for r in rows if r.weights == weights), "none")
    usual = {"mps": "fp16", "cuda": "bf16", "cpu": "none"}[device]
    fp16 = training.fp16 is True or (
        training.fp16 == "auto" and usual == "fp16" and training.bf16 is not True
    )
    bf16 = training.bf16 is True or (training.bf16 == "auto" and usual == "bf16" and not fp16)
    fp16 = fp16 and device != "cpu"
    return "fp16 and bf16" if fp16 and bf16 else "fp16" if fp16 else "bf16" if bf16 else "none"


def _weights(
    model: ModelConfig, training: TrainingConfig, device: DeviceName
) -> tuple[Format, list[str]]:
    if model.torch_dtype == "auto":
        rows = (r for r in TABLE if (r.device, r.method) == (device, training.method))
        if training.optim in KAHAN:
            return "bfloat16", []
        if training.bf16 is True:
            rows = (r for r in rows if r.autocast == "bf16")
        return next(row.weights for row in rows), []
    if model.torch_dtype == "float16" and device == "cpu":
        return "float32", ["float16 weights are not used on the CPU: loading them as float32"]
    return model.torch_dtype, []
