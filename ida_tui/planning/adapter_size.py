"""Number of parameters of a run's adapter, layer by layer, as PEFT creates it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ida_tui.config.model_files import ModelShape
from ida_tui.config.sections.lora import LoraConfig

EMBEDDING = "embed_tokens"


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
    full = (size for name, size in _layer_sizes(shape).items() if is_saved(name, lora))
    return count + sum(full)


def is_adapted(name: str, lora: LoraConfig) -> bool:
    """Whether a linear layer or the embedding gets an adapter, by its full name."""
    if _ends_with(name, lora.exclude_modules):
        return False
    if is_saved(name, lora):
        return False
    if lora.target_modules == "all-linear":
        return not _ends_with(name, (EMBEDDING,))
    return _ends_with(name, lora.target_modules)


def is_saved(name: str, lora: LoraConfig) -> bool:
    """Whether a layer, or a module around it, is trained in full; PEFT compares the ends of their names."""
    parts = name.split(".")
    modules = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(module.endswith(saved) for module in modules for saved in lora.modules_to_save)


def _layer_sizes(shape: ModelShape) -> dict[str, int]:
    """Full name of every layer with weights → its parameters, without biases."""
    sizes = {name: inputs * outputs for name, (inputs, outputs) in shape.module_shapes().items()}
    sizes |= {"lm_head": shape.vocabulary * shape.hidden, "model.norm": shape.hidden}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        sizes[f"{prefix}.input_layernorm"] = sizes[f"{prefix}.post_attention_layernorm"] = (
            shape.hidden
        )
        if shape.qk_norms:
            sizes[f"{prefix}.self_attn.q_norm"] = sizes[f"{prefix}.self_attn.k_norm"] = (
                shape.head_dim
            )
    return sizes


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
