"""Number formats: the recipe of each device, and a scaler that works without clipping."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from trl import GRPOConfig

from ida_tui import embedded, precision
from ida_tui.config import Config, DeviceName, ModelConfig
from ida_tui.engine import weights
from ida_tui.engine.assembly import training_rows
from ida_tui.engine.trainer import WatchedTrainer
from ida_tui.engine.watcher import Watcher
from ida_tui.events import StepFinished
from ida_tui.judge import BatchStats, Verdict
from ida_tui.resolve import resolve


def config(*overrides: str) -> Config:
    return resolve("quickstart", ["model.torch_dtype=auto", *overrides]).config


@pytest.mark.parametrize(
    ("device", "method", "expected"),
    [
        ("mps", "lora", ("float16", True, False, "adamw_torch")),
        ("mps", "full", ("float32", True, False, "adamw_torch")),
        ("cuda", "lora", ("bfloat16", False, True, "adamw_torch_fused")),
        ("cuda", "full", ("float32", False, True, "adamw_torch_fused")),
        ("cpu", "lora", ("float32", False, False, "adamw_torch")),
        ("cpu", "full", ("float32", False, False, "adamw_torch")),
    ],
)
def test_every_device_has_a_recipe_that_learns(
    device: DeviceName, method: str, expected: tuple[str, bool, bool, str]
) -> None:
    recipe = precision.recipe(config(f"training.method={method}"), device)

    assert (recipe.weights, recipe.fp16, recipe.bf16, recipe.optim) == expected
    assert recipe.notes == ()


def test_half_precision_on_the_cpu_is_replaced_and_said_so() -> None:
    recipe = precision.recipe(config("model.torch_dtype=float16", "training.fp16=true"), "cpu")

    assert (recipe.weights, recipe.fp16) == ("float32", False)
    assert len(recipe.notes) == 2
    assert all("float32" in note for note in recipe.notes)


class SpyingScaler(torch.amp.GradScaler):
    """Counts how often gradients are unscaled, by whom."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=65536.0)
        self.unscaled_outside_step = 0
        self._in_step = False

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.unscaled_outside_step += not self._in_step
        super().unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        self._in_step = True
        try:
            return super().step(optimizer, *args, **kwargs)
        finally:
            self._in_step = False


class LengthJudge:
    """Stands in for `Judging`: align is the completion's length modulo 11."""

    def begin(self, step: int, rows: Any) -> None:
        """A rollout starts."""

    def ended(self, row: int, text: str) -> None:
        """A completion is finished."""

    def after_step(self, step: int) -> None:
        """A step is finished."""

    def verdicts(self, texts: list[str], group_size: int) -> tuple[list[Verdict], BatchStats]:
        """Every completion, scored."""
        verdicts = [Verdict.scored(len(text) % 11, 8, 6, "", "length") for text in texts]
        return verdicts, BatchStats.of(verdicts, 0.1)


def train_with_a_scaler(tmp_path: Path, max_grad_norm: float) -> tuple[SpyingScaler, list[Any]]:
    """Two steps of the Metal recipe, imitated on the CPU: fp16 base, fp32 adapter, fp16 autocast, a
    scaler. transformers itself ignores fp16 on the CPU, so accelerate is told behind its back."""
    profile = config()
    events: list[Any] = []

    trainer = WatchedTrainer(
        watcher=Watcher(events.append, threading.Event(), 2),
        judging=LengthJudge(),
        model=weights.load_model(ModelConfig(path="embedded"), "float16"),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            num_generations=4,
            max_completion_length=12,
            max_steps=2,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            max_grad_norm=max_grad_norm,
            gradient_checkpointing=False,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=weights.load_tokenizer(ModelConfig(path=str(embedded.path()))),
        train_dataset=Dataset.from_list(training_rows(profile)),
        peft_config=weights.peft_config(profile.lora),
    )
    scaler = SpyingScaler()
    trainer.accelerator.scaler = scaler
    trainer.accelerator.native_amp = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
        trainer.train()
    return scaler, [event for event in events if isinstance(event, StepFinished)]


def test_without_clipping_no_norm_is_computed_through_the_scaler(tmp_path: Path) -> None:
    scaler, steps = train_with_a_scaler(tmp_path, max_grad_norm=0.0)

    assert scaler.unscaled_outside_step == 0
    assert len(steps) == 2
    assert steps[-1].weight_delta > 0


def test_the_norm_beside_the_scaler_is_that_of_the_unscaled_gradients(tmp_path: Path) -> None:
    _, without_clipping = train_with_a_scaler(tmp_path / "a", max_grad_norm=0.0)
    scaler, clipped_far_away = train_with_a_scaler(tmp_path / "b", max_grad_norm=1e9)

    assert scaler.unscaled_outside_step == 2
    for ours, theirs in zip(without_clipping, clipped_far_away, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
        assert ours.grad_norm is not None
        assert ours.grad_norm > 0
