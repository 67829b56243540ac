"""The change of the weights: reported for every step, and a warning when a run changed nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ida_tui.engine.trainer.weight_delta import WeightDelta
from tests.support.judge_server import Judge, ScriptedJudge
from tests.support.metal import simulated_metal

SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=16",
)
HEADLINE = "✗ Nothing was learned: the weights did not move"


def finished_steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "StepFinished"]


def test_a_step_reports_how_far_the_weights_are_from_their_start(ida_tui_here: Any) -> None:
    done = ida_tui_here("--run", *SHORT, "--json")
    last = finished_steps(done.events)[-1]
    saved = load_file("outputs/quickstart/latest/adapter/adapter_model.safetensors")
    norm = torch.stack([tensor.double().square().sum() for tensor in saved.values()]).sum().sqrt()
    assert last["weight_norm"] == pytest.approx(float(norm), rel=1e-4)
    # lora_B starts at zero, so the largest change is at least its largest entry.
    largest_b = max(float(t.abs().max()) for name, t in saved.items() if "lora_B" in name)
    assert last["largest_change"] >= largest_b > 0
    assert (last["non_finite"], last["loss_scale"]) == (0, None)


def test_a_single_weight_that_moved_is_the_largest_change() -> None:
    model = torch.nn.Linear(3, 2)
    delta = WeightDelta(model)
    with torch.no_grad():
        model.weight[1, 2] += 0.5
    change = delta.change()
    assert change.largest == pytest.approx(0.5)
    assert change.relative > 0


def test_a_judge_that_gives_equal_scores_leaves_the_weights_unchanged_and_the_summary_says_so(
    ida_tui_here: Any,
) -> None:
    with ScriptedJudge(rule=lambda *_: Judge(5, 5, 5)) as server:
        done = ida_tui_here(
            "--run", *SHORT, "judge=gpt-4o-mini", f"judge.base_url={server.base_url}",
            OPENAI_API_KEY="sk-test-0123456789",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert HEADLINE in done.out
    assert "Every group had zero variance" in done.out
    assert "✓ Training complete" not in done.out


def test_updates_skipped_by_the_scaler_are_counted_per_step_and_in_the_summary(
    ida_tui_here: Any,
) -> None:
    large_steps = (
        *SHORT,
        "training.per_device_train_batch_size=32",
        "training.max_completion_length=48",
    )
    with simulated_metal(scale=2.0**40):
        done = ida_tui_here("--run", *large_steps)
        again = ida_tui_here("--run", *large_steps, "--json")
    assert done.code == 0, done.err
    assert HEADLINE in done.out
    assert "Every update overflowed" in done.out
    assert "scaler         skipped 2 of 2 steps" in done.out
    steps = finished_steps(again.events)
    assert [step["skipped"] for step in steps] == [True, True]
    assert [step["loss_scale"] for step in steps] == [2.0**39, 2.0**38]
    assert all(step["non_finite"] > 0 for step in steps)
