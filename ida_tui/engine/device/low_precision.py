"""Products of float32 rows with a frozen weight in bfloat16 or int8, for sampling on the CPU.

Reading the weights limits how fast a few rows are multiplied. In bfloat16 they take half of the memory, and
processors with instructions for bfloat16 multiply twice as many at once (oneDNN). In int8 they take a quarter:
weights have one scale per output, and the rows share one scale that is chosen in each product (fbgemm on x86,
qnnpack on ARM).

Both are private or deprecated parts of torch, so `unusable_reason` computes a small product first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

LowPrecision = Literal["bfloat16", "int8"]
Product = Callable[[torch.Tensor], torch.Tensor]
"""Maps rows, (rows, inputs), to their product with a weight, (rows, outputs), both in float32."""

TILE_ROWS = 4096
"""Outputs that are quantized at a time, which limits the memory of temporary values."""
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of the instructions for bfloat16 in /proc/cpuinfo; the last one is ARM's."""
LARGEST_ERROR = {"bfloat16": 0.01, "int8": 0.04}
"""Largest relative error of the small product."""


def low_precision_product(
    weight: torch.Tensor, bias: torch.Tensor | None, number_format: LowPrecision, rows: int
) -> Product:
    """The product with a copy of a weight in another number format.

    Args:
        weight: (outputs, inputs), float32.
        bias: (outputs,), float32, or None.
        number_format: that of the copy.
        rows: number of rows that are multiplied at a time, as a hint for the layout.
    """
    if number_format == "int8":
        return _int8_product(weight, bias, _saturates())
    return _bfloat16_product(weight, bias, rows)


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
        product = low_precision_product(weight, bias, number_format, len(x))(x)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return f"torch cannot compute it here: {' '.join(str(error).split())[:120]}"
    difference = float((product - expected).norm() / expected.norm())
    if not difference <= LARGEST_ERROR[number_format]:
        return f"torch's product is wrong here, by {difference:.1%}"
    return None


def _bfloat16_product(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.to(torch.bfloat16), rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: torch.Tensor) -> torch.Tensor:
        out = multiply(x.to(torch.bfloat16), packed, None, "none", [], "").float()
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
