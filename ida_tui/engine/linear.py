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
from functools import cache
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
    """Inside the block every linear layer of the model computes by `linear`.

    Backward passes may come later, but not those that compute the block again (gradient checkpointing).
    """
    if not prefers_onednn():
        yield
        return
    layers = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for layer in layers:
        layer.forward = _bound(layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


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
