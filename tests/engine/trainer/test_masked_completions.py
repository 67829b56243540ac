"""Truncated completions that the loss masks: passes in which no completion has a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import ida_tui
from ida_tui.events import types as ev
from tests.support.scripted_completions import script_completions

WEIGHTS = "adapter/adapter_model.safetensors"
SETTINGS = (
    "evaluation.enabled=false", "training.max_steps=3", "training.num_generations=4",
    "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=4",
    "training.max_completion_length=16", "training.mask_truncated_completions=true",
    "training.beta=0.05", "training.learning_rate=1e-3", "training.weight_decay=0.1",
    # A larger epsilon, so that rounding of a gradient near 0 does not decide the sign of an update.
    "training.adam_epsilon=1e-3",
)  # fmt: skip


def run_with_truncated_completions(engine: str, folder: Path) -> tuple[list[ev.StepFinished], Any]:
    """Steps and weights of a run: all completions of step 2 are truncated, and half of the others."""
    with pytest.MonkeyPatch.context() as patch:
        script_completions(patch, truncated=lambda step, row: step == 2 or row % 4 < 2)
        run = ida_tui.run("quickstart", *SETTINGS, f"engine={engine}", f"output_dir={folder}")
    assert run.exit_code == 0, run.state.ended
    return list(run.steps), load_file(run.directory / WEIGHTS)


def test_a_run_whose_completions_are_all_masked_says_why_nothing_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_completions(monkeypatch, truncated=lambda step, row: True)
    run = ida_tui.run("quickstart", *SETTINGS, "training.max_steps=1", f"output_dir={tmp_path}")
    assert run.exit_code == 0
    assert run.state.ended is not None
    assert run.state.ended.hint.startswith("Every completion was truncated")
    assert run.steps[0].entropy is None


def test_passes_without_a_token_train_as_in_trl_and_their_entropy_is_unknown(
    tmp_path: Path,
) -> None:
    fast, fast_weights = run_with_truncated_completions("fast", tmp_path / "fast")
    plain, plain_weights = run_with_truncated_completions("plain", tmp_path / "plain")
    for ours, theirs in zip(fast, plain, strict=True):
        assert (ours.loss, ours.grad_norm) == pytest.approx(
            (theirs.loss, theirs.grad_norm), rel=1e-4, abs=1e-6
        )
        if ours.step == 2:
            assert (ours.entropy, ours.kl, theirs.entropy, theirs.kl) == (None,) * 4
            assert ours.grad_norm == 0
        else:
            assert ours.entropy == pytest.approx(theirs.entropy, rel=1e-4)
    for name, weights in plain_weights.items():
        assert (fast_weights[name] - weights).norm() <= 1e-3 * weights.norm(), name
