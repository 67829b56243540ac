"""Functions of one transformer layer of a decoder, made from the layer's weights and its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.architecture.families import LayerDescription, describe_layer
from ida_tui.engine.device.onednn import linear
from ida_tui.engine.device.packed import PackedLinear, frozen_weight
from ida_tui.engine.device.rollout_weights import RolloutWeights

Function = Callable[[torch.Tensor], torch.Tensor]
Projection = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Applies several linear layers to one input."""
Adapter = tuple[torch.Tensor, torch.Tensor]
"""A, (rank, in), and the scaled transposed B, (rank, out)."""


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Functions and numbers of one transformer layer, in the terms of `families`."""

    norm_in: Function
    attention_in: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """Heads of the queries, followed by those of the keys, and heads of the values, (rows, heads, head size)
    each; queries and keys are normalized if the family does."""
    attention_out: Function
    """The output of the attention as it is added to the layer's input."""
    norm_mlp: Function
    mlp: Function
    """The output of the MLP as it is added to its input."""
    attention_scale: float
    window: int | None
    rotary: str | None

    @classmethod
    def from_module(
        cls, config: Any, layer: Any, index: int, weights: RolloutWeights
    ) -> DecoderLayer:
        """The functions of one layer.

        Args:
            config: the model's configuration.
            layer: the layer's module.
            index: the layer's position in the model, from 0.
            weights: makes the products.
        """
        described = describe_layer(config, layer, index)
        offset, scale = described.family.norm_offset, described.residual_scale
        out = projection(described.attention_out, weights)
        return cls(
            norm_in=rms_norm(described.norm_in, offset),
            attention_in=_attention_in(config, described, layer.self_attn.head_dim, weights),
            attention_out=_added(out, described.norm_attended, offset, scale),
            norm_mlp=rms_norm(described.norm_mlp, offset),
            mlp=_added(_mlp(described, weights), described.norm_fed, offset, scale),
            attention_scale=described.attention_scale,
            window=described.window,
            rotary=described.rotary,
        )


def _attention_in(
    config: Any, described: LayerDescription, head_size: int, weights: RolloutWeights
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Queries with keys, and values, as `DecoderLayer.attention_in` returns them."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    norm_q, norm_k, offset = described.norm_q, described.norm_k, described.family.norm_offset
    linears = described.attention_in
    joint = joint_projection(linears, weights)
    if joint is not None and all(_is_of_heads(norm, head_size) for norm in (norm_q, norm_k)):
        normalize = _joint_norm((norm_q, heads), (norm_k, kv_heads), offset)

        def joint_heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            qkv = joint(x).view(len(x), -1, head_size)
            return normalize(qkv[:, : heads + kv_heads]), qkv[:, heads + kv_heads :]

        return joint_heads
    sizes = [count * head_size for count in (heads, kv_heads, kv_heads)]
    parts = _separate_projections(linears) if joint is None else _split(joint, sizes)
    split_q, split_k = (_split_heads(norm, head_size, offset) for norm in (norm_q, norm_k))

    def separate_heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = parts(x)
        return torch.cat((split_q(q), split_k(k)), dim=1), v.view(len(x), kv_heads, head_size)

    return separate_heads


def _parts(linears: Sequence[Any], sizes: Sequence[int], weights: RolloutWeights) -> Projection:
    """The outputs of several linear layers, or of one that computes all of them, of these sizes."""
    joint = joint_projection(linears, weights)
    return _separate_projections(linears) if joint is None else _split(joint, sizes)


def _split(joint: Function, sizes: Sequence[int]) -> Projection:
    """The parts of a joint output, of these sizes."""
    return lambda x: torch.split(joint(x), list(sizes), dim=-1)


def _is_of_heads(norm: Any, head_size: int) -> bool:
    """Whether a norm, which may be None, is one over each head."""
    return norm is None or norm.weight.numel() == head_size


def _joint_norm(q: tuple[Any, int], k: tuple[Any, int], offset: float) -> Function:
    """The norms of the heads of queries and keys, a module and a number of heads each, as one operation."""
    (norm_q, q_heads), (norm_k, k_heads) = q, k
    if norm_q is None or norm_k is None:
        return _norm_of_parts(rms_norm(norm_q, offset), rms_norm(norm_k, offset), q_heads)
    if _epsilon(norm_q) != _epsilon(norm_k) or norm_q.weight.dtype != torch.float32:
        return _norm_of_parts(rms_norm(norm_q, offset), rms_norm(norm_k, offset), q_heads)
    weight = torch.cat(
        (norm_q.weight.detach().expand(q_heads, -1), norm_k.weight.detach().expand(k_heads, -1))
    )
    return _scaled_norm(weight + offset, _epsilon(norm_q))


def _norm_of_parts(norm_q: Function, norm_k: Function, q_heads: int) -> Function:
    return lambda x: torch.cat((norm_q(x[:, :q_heads]), norm_k(x[:, q_heads:])), dim=1)


def _split_heads(norm: Any, head_size: int, offset: float) -> Function:
    """Split (rows, heads * head size) into heads, with the norm over each head or over all of them."""
    normalize = rms_norm(norm, offset)
    if _is_of_heads(norm, head_size):
        return lambda x: normalize(x.view(len(x), -1, head_size))
    return lambda x: normalize(x).view(len(x), -1, head_size)


def _added(function: Function, norm: Any, offset: float, scale: float) -> Function:
    """A function followed by a norm, which may be None, and a factor."""
    if norm is not None:
        normalize = rms_norm(norm, offset)
        return lambda x: normalize(function(x))
    return function if scale == 1.0 else lambda x: function(x) * scale


def _mlp(described: LayerDescription, weights: RolloutWeights) -> Function:
    """The MLP without its norms, (rows, hidden). A mixture of experts is computed by its own module."""
    if not described.mlp_in:
        return lambda x: described.mlp(x[:, None])[:, 0]
    width = described.mlp_out[0].in_features
    gate_and_up = _parts(described.mlp_in, (width, width), weights)
    down = projection(described.mlp_out[0], weights)
    activate = _activation(described.mlp)

    def mlp(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x)
        return down(activate(gate).mul_(up))

    return mlp


def _activation(mlp: Any) -> Function:
    """The activation function of an MLP."""
    module = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn
    return functional.silu if isinstance(module, torch.nn.SiLU) else module


def joint_projection(linears: Sequence[Any], weights: RolloutWeights) -> Function | None:
    """The outputs of these layers side by side, by one product; None if they need several.

    That is a single layer, or a copy of the weights of all layers that includes their adapters.
    """
    bases = [getattr(linear, "base_layer", linear) for linear in linears]
    is_packed = any(isinstance(base, PackedLinear) for base in bases)
    if not is_packed and weights.accepts([base.weight for base in bases]):
        return _fused_projection(bases, [_adapter_matrices(linear) for linear in linears], weights)
    if len(linears) > 1:
        return None
    separate = _separate_projections(linears)
    return lambda x: separate(x)[0]


def projection(linear: Any, weights: RolloutWeights) -> Function:
    """Apply one layer, with a copy of its weight or with the weight itself."""
    product = joint_projection([linear], weights)
    assert product is not None
    return product


def _separate_projections(linears: Sequence[Any]) -> Projection:
    """Apply these layers with their own weights. The A matrices of their adapters are multiplied as one."""
    bases = [getattr(linear, "base_layer", linear) for linear in linears]
    adapters = [_adapter_matrices(linear) for linear in linears]
    if not any(adapters):
        return lambda x: tuple(_product(base, x) for base in bases)
    dtype = bases[0].dtype if isinstance(bases[0], PackedLinear) else bases[0].weight.dtype
    down = torch.cat([adapter[0] for adapter in adapters if adapter]).to(dtype)
    ups = [adapter[1].to(dtype) if adapter else None for adapter in adapters]
    ranks = [adapter[0].shape[0] if adapter else 0 for adapter in adapters]

    def product(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        low_rank = torch.split(functional.linear(x, down), ranks, dim=-1)
        outputs = []
        for base, projected, up in zip(bases, low_rank, ups, strict=True):
            y = _product(base, x)
            outputs.append(y if up is None else y.addmm_(projected, up))
        return tuple(outputs)

    return product


def _fused_projection(
    bases: Sequence[Any], adapters: Sequence[Adapter | None], weights: RolloutWeights
) -> Function:
    """Apply these layers and their adapters with a single product; the outputs are side by side."""
    sizes = [base.weight.shape[0] for base in bases]
    weight = torch.cat([base.weight.detach() for base in bases])
    for rows, adapter in zip(torch.split(weight, sizes), adapters, strict=True):
        if adapter is not None:
            down, up = adapter
            rows.addmm_(up.t().to(rows.dtype), down.to(rows.dtype))
    bias = None
    if any(base.bias is not None for base in bases):
        biases = zip(bases, sizes, strict=True)
        bias = torch.cat(
            [
                weight.new_zeros(size) if base.bias is None else base.bias.detach()
                for base, size in biases
            ]
        )
    return weights.product(weight, bias)


def _product(base: Any, x: torch.Tensor) -> torch.Tensor:
    return linear(x, frozen_weight(base, x.dtype), base.bias)


def _adapter_matrices(linear: Any) -> Adapter | None:
    """The matrices of the active adapter; None without one."""
    names = (
        [] if getattr(linear, "disable_adapters", False) else getattr(linear, "active_adapters", ())
    )
    for name in names:
        if name in getattr(linear, "lora_A", {}):
            scale = linear.scaling[name]
            up = (linear.lora_B[name].weight.detach() * scale).t().contiguous()
            return linear.lora_A[name].weight.detach(), up
    return None


def rms_norm(norm: Any, offset: float = 0.0) -> Function:
    """RMS norm over the last dimension, with a number added to its weight; the identity for None."""
    if norm is None:
        return lambda x: x
    weight, epsilon = norm.weight.detach(), _epsilon(norm)
    shape = tuple(weight.shape)
    if offset:  # Gemma multiplies in float32
        weight = weight.float() + offset
    elif weight.dtype != torch.float32:
        return lambda x: weight * functional.rms_norm(x.float(), shape, None, epsilon).to(x.dtype)
    if norm.weight.dtype == torch.float32 and weight.device.type == "cpu":
        return _scaled_norm(weight, epsilon)
    return lambda x: functional.rms_norm(x.float(), shape, weight, epsilon).to(x.dtype)


def _epsilon(norm: Any) -> float:
    """The number that a norm adds to the mean of the squares."""
    epsilon: float = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return epsilon


def _scaled_norm(weight: torch.Tensor, epsilon: float) -> Function:
    """RMS norm in float32 by four operations; torch's own has seven on a CPU."""
    size, added = weight.shape[-1], torch.tensor(epsilon, device=weight.device)

    def normalize(x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * torch.addcmul(added, norm, norm, value=1 / size).rsqrt_()).mul_(weight)

    return normalize
