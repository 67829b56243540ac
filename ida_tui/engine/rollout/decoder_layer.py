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
    attention_in: Projection
    """Queries, keys and values, (rows, heads * head size) each."""
    split_q: Function
    split_k: Function
    """Heads of the queries and keys, (rows, heads, head size), normalized if the family does."""
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
        head_size = layer.self_attn.head_dim
        q_size, kv_size = (
            heads * head_size for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        out = linear_projection([described.attention_out], weights)
        return cls(
            norm_in=rms_norm(described.norm_in, offset),
            attention_in=_parts(described.attention_in, (q_size, kv_size, kv_size), weights),
            split_q=_split_heads(described.norm_q, head_size, offset),
            split_k=_split_heads(described.norm_k, head_size, offset),
            attention_out=_added(lambda x: out(x)[0], described.norm_attended, offset, scale),
            norm_mlp=rms_norm(described.norm_mlp, offset),
            mlp=_added(_mlp(described, weights), described.norm_fed, offset, scale),
            attention_scale=described.attention_scale,
            window=described.window,
            rotary=described.rotary,
        )


def _parts(linears: Sequence[Any], sizes: Sequence[int], weights: RolloutWeights) -> Projection:
    """The outputs of several linear layers, or of one that computes all of them, of these sizes."""
    product = linear_projection(linears, weights)
    if len(linears) == len(sizes):
        return product
    return lambda x: torch.split(product(x)[0], list(sizes), dim=-1)


def _split_heads(norm: Any, head_size: int, offset: float) -> Function:
    """Split (rows, heads * head size) into heads, with the norm over each head or over all of them."""
    normalize = rms_norm(norm, offset)
    if norm is None or norm.weight.numel() == head_size:
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
    down = linear_projection(described.mlp_out, weights)
    activate = _activation(described.mlp)

    def mlp(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x)
        return down(activate(gate).mul_(up))[0]

    return mlp


def _activation(mlp: Any) -> Function:
    """The activation function of an MLP."""
    module = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn
    return functional.silu if isinstance(module, torch.nn.SiLU) else module


def linear_projection(linears: Sequence[Any], weights: RolloutWeights) -> Projection:
    """Apply these layers to one input, if possible with one copy of their weights that includes the adapters.

    Otherwise the A matrices of their adapters are multiplied as one.
    """
    bases = [getattr(linear, "base_layer", linear) for linear in linears]
    adapters = [_adapter_matrices(linear) for linear in linears]
    is_packed = any(isinstance(base, PackedLinear) for base in bases)
    if not is_packed and weights.accepts([base.weight for base in bases]):
        return _fused_projection(bases, adapters, weights)
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
) -> Projection:
    """Apply these layers and their adapters with a single product."""
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
    product = weights.product(weight, bias)
    if len(sizes) == 1:
        return lambda x: (product(x),)
    return lambda x: torch.split(product(x), sizes, dim=-1)


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
    weight = norm.weight.detach()
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    shape = tuple(weight.shape)
    if offset:  # Gemma multiplies in float32
        weight = weight.float() + offset
    elif weight.dtype != torch.float32:
        return lambda x: weight * functional.rms_norm(x.float(), shape, None, epsilon).to(x.dtype)
    return lambda x: functional.rms_norm(x.float(), shape, weight, epsilon).to(x.dtype)
