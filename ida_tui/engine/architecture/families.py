"""Descriptions of the layers of the model families that can be decoded without their modules.

All of them compute the same two sums, and differ in what the terms are:

    x = x + residual_scale * norm_attended(attention(norm_in(x)))
    x = x + residual_scale * norm_fed(mlp(norm_mlp(x)))

`Family` says where a family keeps its norms. Everything else is read from the modules and the configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Family:
    """Names of the norms in a layer of a model family; None where a family has none."""

    norm_in: str | None = "input_layernorm"
    norm_attended: str | None = None
    norm_mlp: str | None = "post_attention_layernorm"
    norm_fed: str | None = None
    norm_offset: float = 0.0
    """What is added to the weight of every norm."""


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "smollm3": Family(),
    "phi3": Family(),
    "granite": Family(),
    "olmo2": Family(
        norm_in=None,
        norm_attended="post_attention_layernorm",
        norm_mlp=None,
        norm_fed="post_feedforward_layernorm",
    ),
    "gemma3_text": Family(
        norm_attended="post_attention_layernorm",
        norm_mlp="pre_feedforward_layernorm",
        norm_fed="post_feedforward_layernorm",
        norm_offset=1.0,
    ),
}
"""The supported families by `model_type`. Phi-4 is a `phi3`."""


CHANGED_ATTENTION = ("use_bidirectional_attention", "attn_logit_softcapping")
"""Keys of a configuration that, if set, change what attention computes."""


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """The modules and numbers of one layer. A norm is None where the layer has none."""

    family: Family
    norm_in: Any
    attention_in: tuple[Any, ...]
    """The linear layers of queries, keys and values, or a single one that computes all three."""
    norm_q: Any
    norm_k: Any
    attention_out: Any
    norm_attended: Any
    norm_mlp: Any
    mlp: Any
    mlp_in: tuple[Any, ...]
    """The linear layers of gate and values, or a single one for both; empty for a mixture of experts."""
    mlp_out: tuple[Any, ...]
    """The last linear layer of the MLP; empty for a mixture of experts."""
    norm_fed: Any
    residual_scale: float
    attention_scale: float
    """Factor of the products of queries and keys."""
    window: int | None
    """Number of tokens that a token attends to, itself included; None for all before it."""
    rotary: str | None
    """Key of the layer's rotary embedding in `rotary_kinds`; None for a layer without positions."""

    @property
    def norms(self) -> tuple[Any, ...]:
        """All norms of the layer."""
        norms = (
            *(self.norm_in, self.norm_q, self.norm_k),
            *(self.norm_attended, self.norm_mlp, self.norm_fed),
        )
        return tuple(norm for norm in norms if norm is not None)

    @property
    def linears(self) -> tuple[Any, ...]:
        """All linear layers outside of a mixture of experts."""
        return (*self.attention_in, self.attention_out, *self.mlp_in, *self.mlp_out)


def describe_layer(config: Any, layer: Any, index: int) -> LayerDescription:
    """The description of one layer of a model whose `model_type` is in `FAMILIES`.

    Args:
        config: the model's configuration.
        layer: the layer's module.
        index: the layer's position in the model, from 0.
    """
    family, attention, mlp = FAMILIES[config.model_type], layer.self_attn, layer.mlp
    kind = layer_type(config, index)
    is_mixture = has_experts(mlp)

    def norm(name: str | None) -> Any:
        return None if name is None else getattr(layer, name)

    return LayerDescription(
        family=family,
        norm_in=norm(family.norm_in),
        attention_in=_modules(attention, "qkv_proj", "q_proj", "k_proj", "v_proj"),
        norm_q=getattr(attention, "q_norm", None),
        norm_k=getattr(attention, "k_norm", None),
        attention_out=attention.o_proj,
        norm_attended=norm(family.norm_attended),
        norm_mlp=norm(family.norm_mlp),
        mlp=mlp,
        mlp_in=() if is_mixture else _modules(mlp, "gate_up_proj", "gate_proj", "up_proj"),
        mlp_out=() if is_mixture else (mlp.down_proj,),
        norm_fed=norm(family.norm_fed),
        residual_scale=float(getattr(layer, "residual_multiplier", 1.0)),
        attention_scale=float(attention.scaling),
        window=config.sliding_window if kind == "sliding_attention" else None,
        rotary=_rotary(config, attention, kind),
    )


def has_experts(mlp: Any) -> bool:
    """Whether an MLP is a mixture of experts. The decoder calls its module, adapters included."""
    return hasattr(mlp, "experts")


def layer_type(config: Any, index: int) -> str:
    """`full_attention`, `sliding_attention` or another type of a layer."""
    if layer_types := getattr(config, "layer_types", None):
        return str(layer_types[index])
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def shortest_window(config: Any) -> float:
    """Number of tokens that every layer attends to; infinite without sliding windows, 0 for other layers."""
    kinds = {layer_type(config, index) for index in range(config.num_hidden_layers)}
    if kinds - {"full_attention", "sliding_attention"}:
        return 0
    return config.sliding_window if "sliding_attention" in kinds else math.inf


def rotary_kinds(config: Any) -> tuple[str, ...]:
    """The keys of a model's rotary embeddings: the layer types if each has its own, or one empty string."""
    if _has_rotary_per_layer_type(config):
        return tuple(sorted(set(config.layer_types)))
    return ("",)


def embedding_scale(embedding: Any, backbone: Any) -> float:
    """Factor of the token embeddings."""
    scale = getattr(embedding, "embed_scale", None)
    if scale is not None:  # Gemma rounds it to the number format of the weights
        return float(scale.to(embedding.weight.dtype))
    return float(getattr(backbone, "embedding_multiplier", 1.0))


def _has_rotary_per_layer_type(config: Any) -> bool:
    return "rope_type" not in config.rope_parameters


def _rotary(config: Any, attention: Any, kind: str) -> str | None:
    if not getattr(attention, "use_rope", True):
        return None
    return kind if _has_rotary_per_layer_type(config) else ""


def _modules(parent: Any, fused: str, *names: str) -> tuple[Any, ...]:
    """The module that computes all parts, or the modules of the parts."""
    if hasattr(parent, fused):
        return (getattr(parent, fused),)
    return tuple(getattr(parent, name) for name in names)
