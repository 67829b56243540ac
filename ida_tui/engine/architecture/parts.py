"""Parts of a causal language model: its backbone, its output layer and what happens to the logits.

Transformers' models name these parts differently, and PEFT wraps them. Code that computes logits without the
model's own forward method reads them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class CausalParts:
    """Backbone and output layer: the logits are `softcap * tanh(scale * head(states) / softcap)`."""

    backbone: Any
    """Computes the hidden states from token ids."""
    head: Any
    """The output layer, a linear layer; None if the model has none."""
    scale: float
    """Factor of the logits."""
    softcap: float | None
    """Bound of the logits; None for no bound."""

    @classmethod
    def of(cls, model: Any) -> CausalParts:
        """The parts of a causal language model with or without PEFT's wrapper."""
        base = unwrap_peft(model)
        config = base.config.get_text_config()
        return cls(
            backbone=base.base_model,
            head=base.get_output_embeddings(),
            scale=_logit_scale(config),
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """The model's logits from the output of its output layer, in the same shape."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def unwrap_peft(model: Any) -> Any:
    """The causal language model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def active_adapters(model: Any) -> list[Any]:
    """PEFT's configurations of the active adapters; empty for a model without PEFT's wrapper."""
    if not hasattr(model, "get_base_model"):
        return []
    active = model.active_adapters if hasattr(model, "active_adapters") else [model.active_adapter]
    return [model.peft_config[name] for name in active]


def longest_exact_sequence(model: Any) -> int | None:
    """Number of tokens up to which rotary positions do not depend on the length of the sequence.

    Beyond it, a sequence computed at once differs from one that continues its prompt's keys and values.

    Returns:
        None if there is no such limit.
    """
    config = unwrap_peft(model).config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have one set of parameters for each type of layer.
    kinds = [parameters] if "rope_type" in parameters else parameters.values()
    limits = [
        kind["original_max_position_embeddings"]
        if kind["rope_type"] == "longrope"
        else config.max_position_embeddings
        for kind in kinds
        if kind and kind["rope_type"] in ("longrope", "dynamic")
    ]
    return min(limits, default=None)


def _logit_scale(config: Any) -> float:
    """Factor of the logits. The families call it differently; TRL's output layer reads the same names."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / divisor
