"""Packed copies of a rollout's weights: they multiply as the weights do, within a limit of memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ida_tui.config.devices import decoding_rows
from ida_tui.engine.device import rollout_weights
from ida_tui.engine.device.rollout_weights import RolloutWeights

packs = pytest.mark.skipif(
    not rollout_weights.packing_works(), reason="torch has no packed products on this machine"
)


@packs
@pytest.mark.parametrize("rows", [1, 2, 8, 24])
@pytest.mark.parametrize("shape", [(24, 40), (600, 320)], ids=["small", "large"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_copy_multiplies_as_the_weight(
    rows: int, shape: tuple[int, int], has_bias: bool
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(shape), torch.randn(rows, shape[1])
    bias = torch.randn(shape[0]) if has_bias else None
    weights = RolloutWeights()
    assert weights.accepts([weight])
    expected = functional.linear(x, weight, bias)
    assert torch.allclose(weights.product(weight, bias)(x), expected, atol=1e-4)


@packs
def test_copies_end_at_the_limit() -> None:
    weight = torch.ones(16, 8)
    weights = RolloutWeights(limit_bytes=2 * 16 * 8 * 4)
    assert not weights.accepts([weight] * 3)
    weights.product(weight, None)
    assert weights.accepts([weight])
    weights.product(weight, None)
    assert not weights.accepts([weight])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_only_float32_weights_are_copied(dtype: torch.dtype) -> None:
    assert not RolloutWeights().accepts([torch.ones(16, 8, dtype=dtype)])


def test_a_torch_without_packed_products_multiplies_by_the_weights_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_missing(*arguments: object) -> None:
        raise AttributeError("no such operator")

    def is_wrong(weight: torch.Tensor, bias: torch.Tensor | None) -> rollout_weights.Product:
        return lambda x: functional.linear(x, weight, bias) + 1

    for product in (is_missing, is_wrong):
        monkeypatch.setattr(rollout_weights, "_packed_product", product)
        rollout_weights.packing_works.cache_clear()
        assert not RolloutWeights().accepts([torch.ones(16, 8)])
    monkeypatch.undo()
    rollout_weights.packing_works.cache_clear()


def test_few_numbers_of_rows_are_decoded_and_none_is_much_larger_than_needed() -> None:
    numbers = {decoding_rows(rows) for rows in range(1, 65)}
    assert numbers == {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64}
    assert all(rows <= decoding_rows(rows) < rows + 8 for rows in range(1, 65))
