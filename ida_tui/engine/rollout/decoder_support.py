"""Reasons why a model cannot be decoded by `Decoder`.

Supported are the families of `families`, with or without a LoRA adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ida_tui.engine.architecture.families import (
    CHANGED_ATTENTION,
    FAMILIES,
    describe_layer,
    has_experts,
    layer_type,
)
from ida_tui.engine.architecture.parts import active_adapters, unwrap_peft
from ida_tui.engine.device.packed import PackedLinear


def unsupported_reason(model: Any) -> str | None:
    """Why `Decoder` does not support this causal language model; None if it does.

    The decoder reads the weights of known modules. Any other module in their place, such as an adapter on the
    embedding or a trained copy of a norm, would be left out, so it is a reason.
    """
    adapter_types = {str(config.peft_type.value) for config in active_adapters(model)}
    if adapter_types - {"LORA"}:
        return f"the adapter is {', '.join(sorted(adapter_types))}, not LoRA"
    base = unwrap_peft(model)
    config = base.config
    if getattr(config, "model_type", "") not in FAMILIES:
        model_type = getattr(config, "model_type", "unknown")
        return f"the model type {model_type} is not one of {', '.join(FAMILIES)}"
    if not type(base).__module__.startswith("transformers.models."):
        return f"the model's code is not that of transformers ({type(base).__name__})"
    for name in CHANGED_ATTENTION:
        if getattr(config, name, None):
            return f"the model's configuration sets {name}"
    for name, module in _fixed_modules(base):
        if problem := _unknown_module_reason(base, name, module):
            return problem
    for index, layer in enumerate(base.model.layers):
        if problem := _unsupported_layer_reason(base, layer, index):
            return problem
    return None


def _fixed_modules(base: Any) -> Iterator[tuple[str, Any]]:
    """The modules outside of the layers, and the layers with their parts, with their names."""
    backbone = base.model
    yield from (("the model", backbone), ("the output layer", base.lm_head))
    yield from (("the embedding", backbone.embed_tokens), ("the last norm", backbone.norm))
    yield ("the rotary embedding", backbone.rotary_emb)
    for layer in backbone.layers:
        yield from (("a layer", layer), ("the attention", layer.self_attn))
        if not has_experts(layer.mlp):
            yield ("the MLP", layer.mlp)


def _unsupported_layer_reason(base: Any, layer: Any, index: int) -> str | None:
    """Why the decoder does not reproduce a layer; None if it does."""
    kind = layer_type(base.config, index)
    if kind not in ("full_attention", "sliding_attention"):
        return f"the model has layers of the type {kind}"
    described = describe_layer(base.config, layer, index)
    for norm in described.norms:
        if problem := _unknown_module_reason(base, "a norm", norm):
            return problem
    for linear in described.linears:
        if problem := _unsupported_linear_reason(linear):
            return problem
    return None


def _unknown_module_reason(base: Any, name: str, module: Any) -> str | None:
    """Why a module computes something else than the family's own module does; None if it does not."""
    kind = type(module)
    is_standard = kind in (torch.nn.Embedding, torch.nn.Linear)
    if not is_standard and kind.__module__ != type(base).__module__:
        return f"{name} is of type {kind.__name__}, for example because an adapter changes it"
    return _wrapped_reason(name, module)


def _wrapped_reason(name: str, module: Any) -> str | None:
    """Why a module of a known type computes something else than its type does; None if it does not."""
    if "forward" in vars(module):
        return f"the forward method of {name} is replaced"
    # PEFT's hook on the embedding for gradient checkpointing changes no values.
    hooks = () if isinstance(module, torch.nn.Embedding) else module._forward_hooks
    return f"{name} has a forward hook" if hooks or module._forward_pre_hooks else None


def _unsupported_linear_reason(linear: Any) -> str | None:
    if problem := _wrapped_reason("a linear layer", linear):
        return problem
    if _is_plain_linear(linear):
        return None
    kind = type(linear)
    is_lora = (kind.__module__, kind.__name__) == ("peft.tuners.lora.layer", "Linear")
    if not is_lora or not _is_plain_linear(linear.base_layer):
        return f"the model has layers of type {kind.__name__}"
    adapters = list(linear.active_adapters)
    if len(adapters) > 1:
        return "several adapters are active"
    for name in adapters:
        if getattr(linear, "lora_variant", {}) or getattr(linear, "lora_bias", {}).get(name):
            return "the adapter uses DoRA, another variant of LoRA, or a LoRA bias"
    return "the adapter is merged into the base model" if linear.merged else None


def _is_plain_linear(layer: Any) -> bool:
    return type(layer) is torch.nn.Linear or isinstance(layer, PackedLinear)
