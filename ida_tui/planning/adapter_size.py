"""Number of parameters of a run's adapter, layer by layer, as PEFT creates it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ida_tui.config.model_files import ModelShape
from ida_tui.config.sections.lora import LoraConfig

EMBEDDING, OUTPUT_LAYER = "embed_tokens", "lm_head"


def adapter_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Parameters of the adapter's matrices, of DoRA's magnitudes, and of layers that are trained in full.

    Biases are left out: no supported model has enough of them to matter.
    """
    shapes, count = shape.module_shapes(), 0
    for name, (inputs, outputs) in shapes.items():
        if is_adapted(name, lora):
            rank = _pattern_value(name, lora.rank_pattern, lora.r)
            count += rank * (inputs + outputs) + (outputs if lora.use_dora else 0)
        if any(_ends_with(f"{name}.weight", (target,)) for target in lora.target_parameters):
            count += _pattern_value(name, lora.rank_pattern, lora.r) * (inputs + outputs)
    return count + sum(_full_parameters(shape, name) for name in lora.modules_to_save)


def is_adapted(name: str, lora: LoraConfig) -> bool:
    """Whether a linear layer or the embedding gets an adapter, by its full name."""
    if _ends_with(name, lora.exclude_modules):
        return False
    if any(f".{saved}." in f".{name}." for saved in lora.modules_to_save):
        return False
    if lora.target_modules == "all-linear":
        return not _ends_with(name, (EMBEDDING,))
    return _ends_with(name, lora.target_modules)


def _full_parameters(shape: ModelShape, module: str) -> int:
    """Parameters of all layers of this name."""
    if _ends_with(module, (EMBEDDING, OUTPUT_LAYER)):
        return shape.vocabulary * shape.hidden
    matches = [size for name, size in shape.module_shapes().items() if _ends_with(name, (module,))]
    if matches:
        return sum(inputs * outputs for inputs, outputs in matches)
    return shape.hidden * (1 if module.rpartition(".")[2] == "norm" else shape.layers)


def _ends_with(name: str, endings: Sequence[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _pattern_value(name: str, patterns: Mapping[str, int], default: int) -> int:
    """The value of the first pattern that matches a layer's name, as PEFT chooses it."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error:  # `config.training_checks` reports it
            continue
    return default
