"""Copies of a rollout's weights in the layout that multiplies a few rows fastest.

Decoding multiplies a few rows by every weight, again for every token. oneDNN multiplies up to 1.9 times as
fast if the weight lies in its own layout, so a rollout converts each weight once. As these are copies, an
adapter is added to them without any drift of the weights that are trained. They are freed with the rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.nn import functional

from ida_tui.config.devices import MAX_PACKED_WEIGHT, PACKED_BYTES
from ida_tui.engine.device.onednn import has_onednn

MIN_PACKED_WEIGHT, MIN_PACKED_ROWS = 2**16, 8
"""A smaller weight times fewer rows is multiplied as it is: calling oneDNN would take longer."""

Product = Callable[[torch.Tensor], torch.Tensor]
"""Multiplies (rows, inputs) by a weight, without gradients; returns (rows, outputs)."""


class RolloutWeights:
    """Makes the products of one rollout.

    Args:
        limit_bytes: limit of all copies; further weights are multiplied as they are.
    """

    def __init__(self, limit_bytes: int = PACKED_BYTES) -> None:
        self._free_bytes = limit_bytes

    def accepts(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether one copy of these weights, (outputs, inputs) each, can be made and is within the limit."""
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        limit = min(self._free_bytes, MAX_PACKED_WEIGHT)
        return size <= limit and all(_is_packable(weight) for weight in weights)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """A product with a copy of this weight, (outputs, inputs), which `accepts` has accepted."""
        self._free_bytes -= weight.numel() * weight.element_size()
        product = _packed_product(weight, bias)
        if weight.numel() >= MIN_PACKED_WEIGHT:
            return product
        return lambda x: (
            product(x) if len(x) >= MIN_PACKED_ROWS else functional.linear(x, weight, bias)
        )


def _packed_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.detach(), None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


def _is_packable(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and packing_works()
    )


@cache
def packing_works() -> bool:
    """Whether oneDNN is here and multiplies a packed weight as torch multiplies a plain one."""
    if not has_onednn():
        return False
    weight = torch.linspace(-1, 1, 48 * 32).view(48, 32)
    x, bias = torch.linspace(1, -2, 3 * 32).view(3, 32), torch.linspace(0, 1, 48)
    try:
        with torch.no_grad():
            product = _packed_product(weight, bias)
            return torch.allclose(product(x), functional.linear(x, weight, bias), atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):  # another version of torch
        return False
