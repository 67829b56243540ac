"""The split of a step into passes: which losses train the same step with every split."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

import ida_tui
from ida_tui.config.sections.training import TrainingConfig
from tests.support.scripted_completions import script_completions

LOSSES = get_args(TrainingConfig.model_fields["loss_type"].annotation)


def first_step(loss_type: str, rows: int, folder: Path) -> tuple[float, float]:
    """Gradient norm and loss of a first step of 8 completions, `rows` in a pass, some of them masked."""
    run = ida_tui.run(
        "quickstart", "evaluation.enabled=false", "training.max_steps=1", "training.num_generations=4",
        "training.max_completion_length=16", "training.mask_truncated_completions=true",
        "training.scale_rewards=batch", "training.beta=0.05", f"training.loss_type={loss_type}",
        f"training.per_device_train_batch_size={rows}",
        f"training.gradient_accumulation_steps={8 // rows}", f"output_dir={folder}/{rows}",
    )  # fmt: skip
    (step,) = run.steps
    assert step.grad_norm
    assert step.loss is not None
    return step.grad_norm, step.loss


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_but_bnpo_has_the_same_gradient_with_every_split(
    loss_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_completions(monkeypatch, truncated=lambda step, row: row in (1, 6))
    whole, split = (first_step(loss_type, rows, tmp_path) for rows in (8, 2))
    if loss_type == "bnpo":
        assert split[0] != pytest.approx(whole[0], rel=1e-3)
    else:
        assert split == pytest.approx(whole, rel=1e-4, abs=1e-6)
