"""Reasons why the log-probabilities of a model cannot be computed by `completion_logprobs`.

It needs a backbone whose keys and values can be kept, and an output layer. The rest is transformers' own
code, so the model type does not matter.
"""

from __future__ import annotations

from typing import Any

import torch

from ida_tui.engine.architecture.parts import CausalParts, active_adapters, unwrap_peft

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types whose only state is the keys and values of all tokens."""


def unsupported_reason(model: Any) -> str | None:
    """Why `completion_logprobs` does not support this causal language model; None if it does."""
    for adapter in active_adapters(model):
        if getattr(adapter, "is_prompt_learning", False):
            return f"the adapter ({adapter.peft_type.value}) adds its own tokens to each prompt"
    base = unwrap_peft(model)
    name = type(base).__name__
    if not type(base).__module__.startswith("transformers.models."):
        return f"the model's code is not that of transformers ({name})"
    if base.config.is_encoder_decoder:
        return f"{name} has an encoder, so a prompt is not part of the sequence"
    if getattr(base, "_is_stateful", False):
        return f"{name} has recurrent layers, whose state completions of one prompt cannot share"
    config = base.config.get_text_config()
    if other := sorted(_layer_types(config) - ATTENTION_LAYERS):
        return f"{name} has layers of the type {', '.join(other)}, which keep more than keys and values"
    parts = CausalParts.of(model)
    if parts.backbone is base:
        return f"{name} has no backbone that can be computed without the output layer"
    if type(parts.head) is not torch.nn.Linear:
        kind = "missing" if parts.head is None else f"of type {type(parts.head).__name__}"
        return f"the output layer is {kind}, for example because an adapter changes it"
    return None


def _layer_types(config: Any) -> set[str]:
    """The attention types of the layers; empty if the model has only one."""
    # Some configurations also list each layer's MLP here.
    return {str(kind) for kind in getattr(config, "layer_types", None) or ()} - {"dense", "sparse"}
