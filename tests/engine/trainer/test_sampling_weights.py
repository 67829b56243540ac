"""Runs that draw completions with other weights, whose loss TRL corrects for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ida_tui.engine.rollout.importance import RatioBounds, RatioSums, SamplingFigures
from tests.engine.trainer.test_agreement import run

INT8 = "training.sampling_weights=int8"
CORRECTION = "vllm_importance_sampling_correction"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("training.num_iterations=2", "training.beta=0.05"),
        (
            "training.loss_type=vespo",
            "training.extra={vllm_importance_sampling_mode: token_truncate}",
        ),
    ],
    ids=["one-update", "two-updates", "token-ratios"],
)
def test_a_step_states_how_far_the_drawing_policy_is_from_the_trained_one(
    options: tuple[str, ...], ida_tui_here: Any
) -> None:
    steps, warnings = run(ida_tui_here, INT8, *options)
    assert not warnings
    assert any(step["grad_norm"] > 0 for step in steps)
    for step in steps:
        if step["reused_step"] is not None:
            assert step["sampling_ratio"] is None
            continue
        assert step["sampling_ratio"] == pytest.approx(1, abs=0.05)
        assert 1e-8 < step["sampling_kl"] < 0.01
        assert step["sampling_clipped"] == 0
    assert steps[0]["logprob_gap"] > 1e-5, "the drawn tokens differ, and that is no reason to stop"


def test_the_update_is_the_same_in_one_pass_and_in_two(ida_tui_here: Any) -> None:
    """In one pass the policy's log-probabilities before the update are those of the loss."""
    whole, _ = run(ida_tui_here, INT8, "training.max_steps=1")
    halves, _ = run(
        ida_tui_here,
        INT8,
        "training.max_steps=1",
        "training.per_device_train_batch_size=4",
        "training.gradient_accumulation_steps=2",
    )
    for name in ("loss", "grad_norm", "sampling_kl", "weight_delta"):
        assert halves[0][name] == pytest.approx(whole[0][name], rel=1e-4, abs=1e-6)


def test_without_the_correction_no_ratio_is_computed(ida_tui_here: Any) -> None:
    steps, warnings = run(
        ida_tui_here, INT8, "training.max_steps=1", f"training.extra={{{CORRECTION}: false}}"
    )
    assert not warnings
    assert steps[0]["sampling_ratio"] is None
    assert steps[0]["logprob_gap"] > 1e-5


def test_where_trl_samples_the_run_says_that_the_option_is_without_effect(
    ida_tui_here: Any,
) -> None:
    steps, warnings = run(
        ida_tui_here,
        INT8,
        "training.max_steps=1",
        "training.extra={generation_kwargs: {no_repeat_ngram_size: 9}}",
    )
    assert "training.sampling_weights is without effect: TRL's code samples" in [
        text for _, text in warnings
    ]
    assert steps[0]["sampling_ratio"] is None


@pytest.mark.parametrize(("mode", "outside"), [("sequence_mask", 1 / 2), ("token_mask", 1 / 5)])
def test_figures_of_the_ratio_are_means_over_the_tokens_of_the_loss(
    mode: str, outside: float
) -> None:
    log_ratios = torch.tensor([[0.0, 2.0, 0.0], [-0.5, 0.5, 9.0], [9.0, 9.0, 9.0]])
    batch = {
        "sampling_per_token_logps": torch.full((3, 3), -4.0),
        "old_per_token_logps": log_ratios - 4.0,
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]]),
    }
    sums = RatioSums.of(batch, RatioBounds(mode, None, 3.0))
    figures = SamplingFigures.of_ranks([sums, sums])
    assert figures is not None
    ratios = [1, math.exp(2), 1, math.exp(-0.5), math.exp(0.5)]
    assert figures.ratio == pytest.approx(sum(ratios) / 5)
    assert figures.divergence == pytest.approx((sum(ratios) - 5 - 2) / 5)
    assert figures.outside == pytest.approx(outside)
    masked = batch | {"completion_mask": torch.zeros(3, 3)}
    assert SamplingFigures.of_ranks([RatioSums.of(masked, RatioBounds(mode, None, 3.0))]) is None
