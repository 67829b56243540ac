"""Number formats by device: which of them train, and in which the weights are held.

Three recipes are known to learn. On Metal: a float16 base with a float32 adapter, fp16 autocast and a
gradient scaler, and an AdamW that honours the scaler's verdict (the fused one on Metal does not). On
CUDA: bfloat16. On the CPU: float32. Whatever a profile asks beyond that either is one of these in
other words, or is refused by `ida_tui.checks`, or is replaced here with a note that the log shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ida_tui.config import Config, DeviceName, ModelConfig, TrainingConfig

Format = Literal["float32", "float16", "bfloat16"]


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
    """The optimizer, by transformers' name."""
    notes: tuple[str, ...] = ()
    """What was asked for and replaced; each is shown to the user."""

    def words(self, method: Literal["lora", "full"]) -> str:
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
    """The recipe for a profile on a device."""
    training, notes = config.training, []
    fp16_by_device = device == "mps" and training.bf16 is not True
    fp16 = fp16_by_device if training.fp16 == "auto" else training.fp16
    bf16 = (device == "cuda" and not fp16) if training.bf16 == "auto" else training.bf16
    if device == "cpu" and fp16:
        # accelerate would ignore it without a word.
        fp16 = False
        notes.append("fp16 autocast does not exist on the CPU: training in float32 instead")
    weights, weight_notes = _weights(config.model, training, device)
    return Recipe(
        weights=weights,
        fp16=fp16,
        bf16=bf16,
        optim=_optimizer(training, device),
        notes=(*notes, *weight_notes),
    )


def _weights(
    model: ModelConfig, training: TrainingConfig, device: DeviceName
) -> tuple[Format, list[str]]:
    if model.torch_dtype == "auto":
        # Weights that are themselves trained stay in float32: small updates vanish in 16 bits.
        if device == "cpu" or training.method == "full":
            return "float32", []
        return ("float16" if device == "mps" else "bfloat16"), []
    if model.torch_dtype == "float16" and device == "cpu":
        return "float32", ["float16 weights are not used on the CPU: loading them as float32"]
    return model.torch_dtype, []


def _optimizer(training: TrainingConfig, device: DeviceName) -> str:
    if training.optim != "auto":
        return training.optim
    return "adamw_torch_fused" if device == "cuda" else "adamw_torch"
