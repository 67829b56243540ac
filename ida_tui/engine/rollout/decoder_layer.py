"""Functions of one transformer layer of a decoder, made from the layer's weights and its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.onednn import linear
from ida_tui.engine.device.packed import PackedLinear, frozen_weight
from ida_tui.engine.device.rollout_weights import RolloutWeights

Projection = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Applies several linear layers to one input."""
Adapter = tuple[torch.Tensor, torch.Tensor]
"""A, (rank, in), and the scaled transposed B, (rank, out)."""


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Functions of one transformer layer."""

    norm_in: Callable[[torch.Tensor], torch.Tensor]
    attention_in: Projection
    norm_q: Callable[[torch.Tensor], torch.Tensor]
    norm_k: Callable[[torch.Tensor], torch.Tensor]
    attention_out: Projection
    norm_mlp: Callable[[torch.Tensor], torch.Tensor]
    mlp_in: Projection
    mlp_out: Projection

    @classmethod
    def from_module(cls, layer: Any, weights: RolloutWeights) -> DecoderLayer:
        attention, mlp = layer.self_attn, layer.mlp

        def projection(*linears: Any) -> Projection:
            return linear_projection(linears, weights)

        return cls(
            norm_in=rms_norm(layer.input_layernorm),
            attention_in=projection(attention.q_proj, attention.k_proj, attention.v_proj),
            norm_q=rms_norm(getattr(attention, "q_norm", None)),
            norm_k=rms_norm(getattr(attention, "k_norm", None)),
            attention_out=projection(attention.o_proj),
            norm_mlp=rms_norm(layer.post_attention_layernorm),
            mlp_in=projection(mlp.gate_proj, mlp.up_proj),
            mlp_out=projection(mlp.down_proj),
        )


def unwrap_peft(model: Any) -> Any:
    """The causal language model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def rms_norm(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """RMS norm over the last dimension; the identity for None."""
    if norm is None:
        return lambda x: x
    weight, epsilon = norm.weight, norm.variance_epsilon
    shape = tuple(weight.shape)
    if weight.dtype == torch.float32:
        return lambda x: functional.rms_norm(x, shape, weight, epsilon)
    return lambda x: weight * functional.rms_norm(x.float(), shape, None, epsilon).to(x.dtype)
