"""Products with weights in bfloat16 and int8, which sampling may use on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

from ida_tui.config.sections.training import TrainingConfig
from ida_tui.engine.device import low_precision
from ida_tui.engine.device.low_precision import LowPrecision, LowPrecisionWeights, unusable_reason
from ida_tui.engine.run.preflight import require_sampling_weights
from ida_tui.errors import ExitCode, IdaError

FORMATS: tuple[LowPrecision, ...] = ("bfloat16", "int8")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """Forget what this machine can do, before and after the test."""
    unusable_reason.cache_clear()
    yield
    unusable_reason.cache_clear()


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 7])
def test_a_product_in_another_format_is_that_of_float32_within_its_rounding(
    number_format: LowPrecision, rows: int
) -> None:
    if reason := unusable_reason(number_format):
        pytest.skip(reason)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 80), torch.randn(5000, 80), torch.randn(5000)
    weight[3] = 0
    weights = LowPrecisionWeights(number_format)
    assert weights.accepts([weight, bias])
    for summand in (None, bias):
        out = weights.product(weight, summand)(x)
        expected = functional.linear(x, weight, summand)
        assert out.dtype == torch.float32
        assert float((out - expected).norm() / expected.norm()) < 0.03
    assert not weights.accepts([weight.half()])


def test_a_format_that_the_processor_does_not_multiply_is_refused_with_one_that_may_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(low_precision, "_multiplies_bfloat16", lambda: False)
    with pytest.raises(IdaError, match="no instructions for bfloat16") as refused:
        require_sampling_weights(TrainingConfig(sampling_weights="bfloat16"))
    assert refused.value.code == ExitCode.DEVICE_UNUSABLE
    assert "int8" in refused.value.hint
    require_sampling_weights(TrainingConfig())


@pytest.mark.parametrize(
    ("product", "reason"),
    [
        (lambda *_: lambda x: torch.zeros(len(x), 96), "torch's product is wrong here"),
        (lambda *_: torch.ops.quantized.no_such_operator, "torch cannot compute it here"),
    ],
    ids=["wrong", "missing"],
)
def test_a_torch_that_cannot_multiply_integers_is_found_before_the_run(
    product: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_precision, "_saturates", lambda: False)
    monkeypatch.setattr(low_precision, "_int8_product", product)
    assert reason in str(unusable_reason("int8"))
