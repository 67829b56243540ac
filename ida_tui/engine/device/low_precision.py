"""Products of float32 rows with a frozen weight in bfloat16 or int8, for sampling on the CPU.

Reading the weights limits how fast a few rows are multiplied. In bfloat16 they take half of the memory, and
a processor with instructions for bfloat16 multiplies twice as many at once (oneDNN). In int8 they take a
quarter: weights have one scale per output, and the rows share a scale that is chosen in each product (fbgemm
on x86, qnnpack on ARM).

Both are private or deprecated parts of torch, so `unusable_reason` computes a small product first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

from ida_tui.engine.device.rollout_weights import Product, RolloutWeights

LowPrecision = Literal["bfloat16", "int8"]

TILE_ROWS = 4096
"""Outputs that are quantized at a time, which limits the memory of temporary values."""
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of the instructions for bfloat16 in /proc/cpuinfo; the last one is ARM's."""
LARGEST_ERROR = {"bfloat16": 0.01, "int8": 0.04}
"""Largest relative error of the small product."""


class LowPrecisionWeights(RolloutWeights):
    """Makes the products of one rollout with copies of the weights in another number format.

    Args:
        number_format: that of the copies.
    """

    def __init__(self, number_format: LowPrecision) -> None:
        super().__init__()
        self._number_format = number_format

    def accepts(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these weights can be copied: all in float32 on the CPU can."""
        return all(
            weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights
        )

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """A product with a copy of this weight, (outputs, inputs), which `accepts` has accepted."""
        if self._number_format == "int8":
            return _int8_product(weight, bias, _saturates())
        return _bfloat16_product(weight, bias)


@cache
def unusable_reason(number_format: LowPrecision) -> str | None:
    """Why this machine cannot use a number format; None if it can."""
    if number_format == "bfloat16" and not _multiplies_bfloat16():
        return "this processor has no instructions for bfloat16"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, generator=generator)
    weight = torch.randn(96, 64, generator=generator)
    bias = torch.randn(96, generator=generator)
    expected = functional.linear(x, weight, bias)
    try:
        product = LowPrecisionWeights(number_format).product(weight, bias)(x)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return f"torch cannot compute it here: {' '.join(str(error).split())[:120]}"
    difference = float((product - expected).norm() / expected.norm())
    if not difference <= LARGEST_ERROR[number_format]:
        return f"torch's product is wrong here, by {difference:.1%}"
    return None


def _bfloat16_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.to(torch.bfloat16), None)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = multiply(x.to(torch.bfloat16), packed, None, "none", [], "").float()
        return out if bias is None else out.add_(bias)

    return product


def _int8_product(weight: torch.Tensor, bias: torch.Tensor | None, saturates: bool) -> Product:
    scales = torch.linalg.vector_norm(weight, ord=torch.inf, dim=1).clamp_(min=1e-12) / 127
    integers = torch.empty(weight.shape, dtype=torch.int8)
    for start in range(0, len(weight), TILE_ROWS):
        rows = slice(start, start + TILE_ROWS)
        integers[rows] = (weight[rows] / scales[rows, None]).round_()
    zero_points = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # torch announces that it will remove its quantized tensors. Without them, int8 is unusable.
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(
            integers, scales.double(), zero_points, 0
        )
    packed = torch.ops.quantized.linear_prepack.default(quantized, bias)
    multiply = torch.ops.quantized.linear_dynamic.default
    return lambda x: multiply(x, packed, saturates)


@cache
def _saturates() -> bool:
    """Whether sums of products of 8-bit numbers overflow here, so that the rows may have only 7 bits.

    Processors without VNNI add two products in 16 bits.
    """
    ones = torch.ones(16, 64)
    largest: torch.Tensor = _int8_product(ones, None, saturates=False)(ones)
    return bool((largest - 64).abs().max() > 1)


@cache
def _multiplies_bfloat16() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return any(flag in flags for flag in BFLOAT16_FLAGS)
