"""Products with weights on the CPU: by oneDNN where torch's default would be slow.

torch multiplies float32 matrices with Intel's MKL. On processors of other makers MKL keeps to older
instructions: on an AMD EPYC, oneDNN (which torch ships too) is 2.2 times as fast on the shapes of a training
step. On Intel's own the two are level there, but a few rows times a large weight, which is what decoding is,
take MKL 1.4 times as long. Which of the two is used depends on the processor and the shape alone, never on a
measurement, so that a run that is resumed computes what it would have computed. Everything but float32 on
such a CPU is left to torch.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

FEW_ROWS = 4
"""With fewer rows than this the product is a walk over the weights, and torch's own is as good."""

MANY_ROWS, LARGE_WEIGHT = 32, 2**19
"""Up to so many rows, times a weight of at least so many numbers, MKL is slow on Intel's processors too."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x @ weight.T + bias``, as `torch.nn.functional.linear`; gradients included."""
    rows = x.numel() // x.shape[-1]
    if rows < FEW_ROWS or not covered(x, weight):
        return functional.linear(x, weight, bias)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if prefers_onednn() and learns:
        found: torch.Tensor = _Linear.apply(x, weight, bias)
        return found
    decodes = rows <= MANY_ROWS and weight.numel() >= LARGE_WEIGHT and not learns
    if prefers_onednn() or decodes:
        return onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether these two are multiplied by oneDNN whatever their shapes."""
    return prefers_onednn() and covered(x, weight)


def covered(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN could multiply these two."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and has_onednn()
    )


@contextmanager
def quicker_linears(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block linear layers compute by `linear`, and those with an adapter as one operation.

    PEFT's module adds, scales and keeps tensors as wide as its output; `_Adapted` keeps the input and the
    thin half. Backward passes may come later, but not those that compute the block again (gradient
    checkpointing).
    """
    changed: list[torch.nn.Module] = []
    for module in model.modules():
        if hasattr(module, "lora_A") and (one := _one_adapter(module)) is not None:
            module.forward = partial(_adapted, module, one, module.forward)
        elif type(module) is torch.nn.Linear and prefers_onednn():
            module.forward = _bound(module)  # type: ignore[method-assign]
        else:
            continue
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


@cache
def has_onednn() -> bool:
    """Whether oneDNN is there, on an x86 processor."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN is there, and the processor is an x86 one that is not Intel's."""
    if not has_onednn():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _one_adapter(layer: Any) -> str | None:
    """The name of the layer's only adapter, where it is plain LoRA in float32 on a frozen float32 base."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or layer.disable_adapters or layer.merged:
        return None
    (name,) = names
    base = layer.base_layer
    if type(base) is not torch.nn.Linear or any(p.requires_grad for p in base.parameters()):
        return None
    if getattr(layer, "use_dora", {}).get(name) or getattr(layer, "lora_bias", {}).get(name):
        return None
    still = layer.lora_dropout[name]
    if not isinstance(still, torch.nn.Identity) and getattr(still, "p", 1) != 0:
        return None
    formats = {base.weight.dtype, layer.lora_A[name].weight.dtype, layer.lora_B[name].weight.dtype}
    return name if formats == {torch.float32} else None


def _adapted(layer: Any, name: str, otherwise: Any, x: torch.Tensor, **more: Any) -> torch.Tensor:
    if more or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
        found: torch.Tensor = otherwise(x, **more)
        return found
    base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    out: torch.Tensor = _Adapted.apply(x, base.weight, base.bias, down, up, layer.scaling[name])
    return out


class _Adapted(torch.autograd.Function):
    """``x @ W.T + b + scale * (x @ A.T) @ B.T`` with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        thin = functional.linear(flat, down)
        out = linear(flat, weight, bias).addmm_(thin, up.t(), alpha=scale)
        ctx.save_for_backward(x, weight, down, up, thin)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, down, up, thin = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        for_thin = (gradient @ up).mul_(ctx.scale)
        for_x = for_down = for_up = None
        if ctx.needs_input_grad[0]:
            own = by_onednn(gradient, weight)
            flat = onednn(gradient.contiguous(), weight.t(), None) if own else gradient @ weight
            for_x = flat.addmm_(for_thin, down).view(x.shape)
        if ctx.needs_input_grad[3]:
            for_down = for_thin.t() @ x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[4]:
            for_up = (gradient.t() @ thin).mul_(ctx.scale)
        return for_x, None, None, for_down, for_up, None


def _bound(layer: torch.nn.Linear) -> Any:
    return lambda x: linear(x, layer.weight, layer.bias)


def onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x @ weight.T + bias`` by oneDNN, without a gradient; float32 on the CPU, strided as they come."""
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # The input is needed for the weight's gradient only, and most weights of a LoRA run have none.
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.has_bias = bias is not None
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        for_x = for_weight = for_bias = None
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[0]:
            for_x = onednn(gradient.contiguous(), weight.t(), None)
        if ctx.needs_input_grad[1]:
            for_weight = onednn(flat.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            for_bias = flat.sum(dim=0)
        return for_x, for_weight, for_bias
