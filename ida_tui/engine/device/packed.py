"""Linear layers whose frozen weight is packed into 4 or 8 bits and unpacked for every product.

bitsandbytes packs and unpacks; the product is torch's. Its own layers compute something else while sampling
than while training: on some CPUs they round to bfloat16, and their 8-bit product rounds the activations, too.
The loss has to score the policy that drew the completions, so these layers always compute `x @ W.T` with the
same W. For PEFT, TRL and transformers they are ordinary linear layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

NF4_BLOCK, NF4_SCALE_BLOCK = 64, 256
"""Weights that share a scale, and scales that share a scale of their own (double quantization)."""


class PackedLinear(torch.nn.Linear):
    """A linear layer with a packed weight, which is not trained.

    Args:
        inputs: input width.
        outputs: output width.
        packed: the packed weight.
        bias: (outputs,), or None.
        dtype: number format of the model's other weights.
    """

    def __init__(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: Any, dtype: torch.dtype
    ) -> None:
        super().__init__(inputs, outputs, bias=False, device="meta")
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self.dtype = dtype

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, (outputs, inputs), in a number format."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """`input @ weight.T + bias`, in the format of autocast or, without it, of the input."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        result: torch.Tensor = _PackedProduct.apply(input.to(dtype), self)
        return result if self.bias is None else result + self.bias.to(dtype)


class Nf4Linear(PackedLinear):
    """A linear layer in the 4-bit NormalFloat format of QLoRA, with double quantization."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        packed, state = layer.weight.data, layer.weight.quant_state
        super().__init__(layer.in_features, layer.out_features, packed, layer.bias, dtype)
        self.register_buffer("scales", state.absmax)
        self.register_buffer("scale_of_scales", state.state2.absmax)
        self.register_buffer("scale_code", state.state2.code)
        self.register_buffer("scale_offset", state.offset)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes import functional as bnb

        scales = bnb.dequantize_blockwise(
            self.scales,
            absmax=self.scale_of_scales,
            code=self.scale_code,
            blocksize=NF4_SCALE_BLOCK,
        )
        state = bnb.QuantState(
            absmax=scales.add_(self.scale_offset),
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=dtype,
            blocksize=NF4_BLOCK,
            quant_type="nf4",
        )
        weight: torch.Tensor = bnb.dequantize_4bit(self.weight.data, state)
        return weight


class Int8Linear(PackedLinear):
    """A linear layer with 8-bit integers and one scale for each output."""

    scales: torch.Tensor

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
        super().__init__(
            layer.in_features, layer.out_features, layer.weight.data, layer.bias, dtype
        )
        self.register_buffer("scales", scales / 127)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        # The product of a 16-bit number and a float32 scale is computed in float32 and then rounded.
        return self.weight.to(dtype).mul_(self.scales[:, None])


def frozen_weight(layer: torch.nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """The weight of a linear layer that is not trained; a packed one in this number format."""
    return layer.unpacked(dtype) if isinstance(layer, PackedLinear) else layer.weight


class _PackedProduct(torch.autograd.Function):
    """`x @ W.T` for a packed W; the backward pass unpacks it again instead of storing it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        return gradient @ ctx.layer.unpacked(gradient.dtype), None
