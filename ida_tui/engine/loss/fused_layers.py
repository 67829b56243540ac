"""RMS norms and gated feed-forward blocks of known models, each computed as a single operation.

Their operations save fewer tensors for the backward pass than transformers' modules: a norm its input, and a
feed-forward block neither the activated gate nor the product that its last layer multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.onednn import (
    LoraParts,
    lora_gradients,
    lora_input_gradient,
    lora_parts,
    lora_product,
    use_onednn_linears,
)

ALIKE = ("Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3Moe", "SmolLM3", "Granite", "Olmo2")
"""Families whose modules compute the same; their class names begin with these words."""
NORMS = (*(f"{family}RMSNorm" for family in ALIKE), "Phi3RMSNorm")
FEED_FORWARDS = tuple(f"{family}MLP" for family in ALIKE)


@contextmanager
def use_fused_layers(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block, compute linear layers, norms and feed-forward blocks as single operations.

    As with `use_onednn_linears`, the backward pass may run after the block. Modules of other classes, and
    other number formats than float32, are computed as usual.
    """
    patched: list[torch.nn.Module] = []
    with use_onednn_linears(model):
        for module in model.modules():
            kind = type(module)
            if not kind.__module__.startswith("transformers.models."):
                continue
            if kind.__name__ in NORMS:
                module.forward = partial(_norm_forward, module, module.forward)
            elif kind.__name__ in FEED_FORWARDS and (parts := _feed_forward_parts(module)):
                module.forward = partial(_feed_forward, parts, module.forward)
            else:
                continue
            patched.append(module)
        try:
            yield
        finally:
            for module in patched:
                del module.forward


def _is_float32(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


# --- RMS norms -------------------------------------------------------------------------------------


def _norm_forward(norm: Any, original: Any, x: torch.Tensor) -> torch.Tensor:
    if not _is_float32(x) or norm.weight.dtype != torch.float32:
        result: torch.Tensor = original(x)
        return result
    out: torch.Tensor = _RmsNorm.apply(x, norm.weight, norm.variance_epsilon)
    return out


class _RmsNorm(torch.autograd.Function):
    """`x / sqrt(mean(x²) + ε) * weight` over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale: torch.Tensor = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (gradient * x).mul_(scale).flatten(0, -2).sum(dim=0)
        if ctx.needs_input_grad[0]:
            grad_x = gradient * weight
            factor = (grad_x * x).sum(dim=-1, keepdim=True).mul_(scale.pow(3) / x.shape[-1])
            grad_x.mul_(scale).addcmul_(x, factor, value=-1.0)
        return grad_x, grad_weight, None


# --- feed-forward blocks ---------------------------------------------------------------------------


def _feed_forward_parts(block: Any) -> tuple[LoraParts, ...] | None:
    """The matrices of a feed-forward block with SiLU and plain LoRA on all its layers; else None."""
    if (
        not isinstance(block.act_fn, torch.nn.SiLU)
        and type(block.act_fn).__name__ != "SiLUActivation"
    ):
        return None
    layers = (block.gate_proj, block.up_proj, block.down_proj)
    parts = tuple(part for layer in layers if (part := lora_parts(layer)) is not None)
    return parts if len(parts) == len(layers) else None


def _feed_forward(parts: tuple[LoraParts, ...], original: Any, x: torch.Tensor) -> torch.Tensor:
    if not _is_float32(x):
        result: torch.Tensor = original(x)
        return result
    adapters = (matrix for part in parts for matrix in (part.down, part.up))
    out: torch.Tensor = _FeedForward.apply(x, parts, *adapters)
    return out


class _FeedForward(torch.autograd.Function):
    """`down(silu(gate(x)) * up(x))` of three LoRA layers with frozen weights."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, parts: tuple[LoraParts, ...], *adapters: torch.Tensor
    ) -> torch.Tensor:
        gate_layer, up_layer, down_layer = parts
        flat = x.reshape(-1, x.shape[-1])
        gate, gate_low = lora_product(flat, gate_layer)
        up, up_low = lora_product(flat, up_layer)
        out, down_low = lora_product(functional.silu(gate).mul_(up), down_layer)
        ctx.save_for_backward(flat, gate, up, gate_low, up_low, down_low, *adapters)
        ctx.parts = parts
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        flat, gate, up, gate_low, up_low, down_low, *_ = ctx.saved_tensors
        gate_layer, up_layer, down_layer = ctx.parts
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        activated = functional.silu(gate)
        inner = activated * up
        low, *of_down = lora_gradients(gradient, inner, down_low, down_layer)
        del inner
        grad_inner = lora_input_gradient(gradient, low, down_layer)
        grad_up = activated.mul_(grad_inner)
        grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
        grad_x = None
        up_low, *of_up = lora_gradients(grad_up, flat, up_low, up_layer)
        gate_low, *of_gate = lora_gradients(grad_gate, flat, gate_low, gate_layer)
        if ctx.needs_input_grad[0]:
            grad_x = lora_input_gradient(grad_up, up_low, up_layer)
            grad_x.add_(lora_input_gradient(grad_gate, gate_low, gate_layer))
            grad_x = grad_x.view(gradients[0].shape)
        return grad_x, None, *of_gate, *of_up, *of_down
