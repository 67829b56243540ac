"""Linear layers computed with oneDNN on CPUs where torch's default is slow.

torch multiplies float32 matrices with Intel's MKL. On processors of other vendors MKL uses older
instructions: on an AMD EPYC, oneDNN (which torch also ships) is 2.2 times as fast on the shapes of a training
step. On Intel processors the two are equally fast for training. For decoding, which multiplies few rows by a
large weight, MKL takes 1.4 times as long. The choice depends only on the processor and the shape, never on a
measurement, so that a resumed run computes the same numbers. Everything except float32 on x86 CPUs is left to
torch.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.packed import PackedLinear, frozen_weight

MIN_ONEDNN_ROWS = 4
"""Fewer rows than this are limited by memory bandwidth, where torch's default is as fast."""

MAX_DECODING_ROWS, MIN_DECODING_WEIGHT = 32, 2**19
"""Up to this many rows, times a weight of at least this many elements, are slow with MKL on Intel CPUs."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Differentiable `x @ weight.T + bias`, like `torch.nn.functional.linear`."""
    rows = x.numel() // x.shape[-1]
    if rows < MIN_ONEDNN_ROWS or not onednn_supports(x, weight):
        return functional.linear(x, weight, bias)
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if prefers_onednn() and needs_grad:
        result: torch.Tensor = _OneDnnLinear.apply(x, weight, bias)
        return result
    is_decoding = (
        rows <= MAX_DECODING_ROWS and weight.numel() >= MIN_DECODING_WEIGHT and not needs_grad
    )
    if prefers_onednn() or is_decoding:
        return onednn_linear(x, weight, bias)
    return functional.linear(x, weight, bias)


def uses_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN is used for these tensors regardless of their shapes."""
    return prefers_onednn() and onednn_supports(x, weight)


def onednn_supports(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN can multiply these tensors."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and has_onednn()
    )


@contextmanager
def use_onednn_linears(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block, compute linear layers with `linear` and each LoRA layer as a single operation.

    For the backward pass, PEFT's LoRA layer saves tensors as wide as its output. The fused operation saves
    only the input and the low-rank product. A backward pass may run after the block, except with gradient
    checkpointing, which would recompute the forward pass with the original layers.
    """
    patched: list[torch.nn.Module] = []
    for module in model.modules():
        if (parts := lora_parts(module)) is not None:
            module.forward = partial(_lora_forward, parts, module.forward)
        elif type(module) is torch.nn.Linear and prefers_onednn():
            module.forward = _linear_forward(module)  # type: ignore[method-assign]
        else:
            continue
        patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward


@cache
def has_onednn() -> bool:
    """Whether this is an x86 processor and torch was built with oneDNN."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN is available and the processor is made by AMD."""
    if not has_onednn():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _plain_lora_name(layer: Any) -> str | None:
    """Name of the layer's adapter if it is the only one, plain LoRA, float32, on a frozen float32 base."""
    if (type(layer).__module__, type(layer).__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None  # for example LoRA on a parameter, whose matrices have another layout
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or layer.disable_adapters or layer.merged:
        return None
    (name,) = names
    base = layer.base_layer
    is_packed = isinstance(base, PackedLinear)
    if not (is_packed or type(base) is torch.nn.Linear):
        return None
    if any(p.requires_grad for p in base.parameters()):
        return None
    if getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get(name):
        return None
    if getattr(layer, "lora_bias", {}).get(name):
        return None
    dropout = layer.lora_dropout[name]
    if not isinstance(dropout, torch.nn.Identity) and getattr(dropout, "p", 1) != 0:
        return None
    base_dtype = base.dtype if is_packed else base.weight.dtype
    dtypes = {base_dtype, layer.lora_A[name].weight.dtype, layer.lora_B[name].weight.dtype}
    return name if dtypes == {torch.float32} else None


@dataclass(frozen=True, slots=True)
class LoraParts:
    """The frozen layer of a LoRA layer, the matrices of its adapter, and their scale."""

    base: torch.nn.Linear
    down: torch.Tensor
    """(rank, inputs)."""
    up: torch.Tensor
    """(outputs, rank)."""
    scale: float


def lora_parts(layer: Any) -> LoraParts | None:
    """The parts of a layer with one plain LoRA adapter in float32 on a frozen base; None for any other."""
    if not hasattr(layer, "lora_A") or (name := _plain_lora_name(layer)) is None:
        return None
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LoraParts(layer.base_layer, down, up, layer.scaling[name])


def lora_product(x: torch.Tensor, layer: LoraParts) -> tuple[torch.Tensor, torch.Tensor]:
    """`x @ W.T + b + scale * (x @ A.T) @ B.T` of (rows, inputs), and `x @ A.T`; without a gradient."""
    low_rank = functional.linear(x, layer.down)
    out = linear(x, frozen_weight(layer.base, x.dtype), layer.base.bias)
    return out.addmm_(low_rank, layer.up.t(), alpha=layer.scale), low_rank


def lora_gradients(
    gradient: torch.Tensor, x: torch.Tensor, low_rank: torch.Tensor, layer: LoraParts
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `lora_product`: of `x @ A.T`, of A and of B.

    Args:
        gradient: gradient of the output, (rows, outputs).
        x: the input, (rows, inputs).
        low_rank: `x @ A.T`.
        layer: the LoRA layer.
    """
    grad_low_rank = (gradient @ layer.up).mul_(layer.scale)
    grad_down = grad_low_rank.t() @ x
    # With the short side first, the product is up to twice as fast.
    grad_up = (low_rank.t() @ gradient).mul_(layer.scale).t()
    return grad_low_rank, grad_down, grad_up


def lora_input_gradient(
    gradient: torch.Tensor, grad_low_rank: torch.Tensor, layer: LoraParts
) -> torch.Tensor:
    """Gradient of the input of `lora_product`, (rows, inputs)."""
    weight = frozen_weight(layer.base, gradient.dtype)
    if uses_onednn(gradient, weight):
        grad_x = onednn_linear(gradient.contiguous(), weight.t(), None)
    else:
        grad_x = gradient @ weight
    return grad_x.addmm_(grad_low_rank, layer.down)


def _lora_forward(
    layer: LoraParts, original: Any, x: torch.Tensor, **arguments: Any
) -> torch.Tensor:
    """Forward pass of a LoRA layer as one operation, or by its original method if that is not possible."""
    if arguments or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
        result: torch.Tensor = original(x, **arguments)
        return result
    out: torch.Tensor = _LoraLinear.apply(x, layer.down, layer.up, layer)
    return out


class _LoraLinear(torch.autograd.Function):
    """A LoRA layer whose weight and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, layer: LoraParts
    ) -> torch.Tensor:
        out, low_rank = lora_product(x.reshape(-1, x.shape[-1]), layer)
        ctx.save_for_backward(x, down, up, low_rank)
        ctx.layer = layer
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, _, up, low_rank = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, up.shape[0])
        grad_low_rank, grad_down, grad_up = lora_gradients(
            gradient, x.reshape(-1, x.shape[-1]), low_rank, ctx.layer
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = lora_input_gradient(gradient, grad_low_rank, ctx.layer).view(x.shape)
        return grad_x, grad_down, grad_up, None


def _linear_forward(layer: torch.nn.Linear) -> Any:
    """Forward method for a linear layer that computes with `linear`."""
    return lambda x: linear(x, layer.weight, layer.bias)


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x @ weight.T + bias` with oneDNN, without a gradient, for float32 CPU tensors of any stride."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _OneDnnLinear(torch.autograd.Function):
    """Differentiable linear layer with oneDNN."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # Only the weight's gradient needs the input, and in a LoRA run most weights are frozen.
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.has_bias = bias is not None
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        grad_x = grad_weight = grad_bias = None
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[0]:
            grad_x = onednn_linear(gradient.contiguous(), weight.t(), None)
        if ctx.needs_input_grad[1]:
            grad_weight = onednn_linear(flat.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = flat.sum(dim=0)
        return grad_x, grad_weight, grad_bias
