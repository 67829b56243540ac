"""Number formats: every recipe of the table learns, what is left out fails, a scaler needs no clipping."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.nn import functional
from transformers import Adafactor
from trl import GRPOConfig, GRPOTrainer

from ida_tui.config import embedded, precision
from ida_tui.config.checks import check_config
from ida_tui.config.precision import PRECISION_TABLE, PrecisionRecipe, PrecisionRow
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config, DeviceName, ModelConfig, TrainingConfig
from ida_tui.engine.model import load
from ida_tui.engine.run.build import training_rows
from ida_tui.engine.trainer.arguments import custom_optimizer
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.events.types import StepFinished
from ida_tui.judge import BatchStats, Verdict
from ida_tui.util.finding import Finding
from tests.support.metal import install_scaler


def config(*overrides: str, verify: bool = True) -> Config:
    return resolve("quickstart", ["model.torch_dtype=auto", *overrides], verify=verify).config


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
    recipe = precision.resolve_precision(config(f"training.method={method}"), device)

    assert (recipe.weights, recipe.fp16, recipe.bf16, recipe.optim) == expected
    assert recipe.notes == ()


def test_half_precision_on_the_cpu_is_replaced_and_said_so() -> None:
    recipe = precision.resolve_precision(
        config("model.torch_dtype=float16", "training.fp16=true"), "cpu"
    )

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
        return verdicts, BatchStats.from_verdicts(verdicts, 0.1)


def train_with_a_scaler(
    tmp_path: Path, max_grad_norm: float, *, adapter: bool = True
) -> tuple[SpyingScaler, list[Any]]:
    """Two steps of the Metal recipe, imitated on the CPU: fp16 base, fp32 adapter, fp16 autocast, a
    scaler. transformers itself ignores fp16 on the CPU, so accelerate is told behind its back."""
    profile = config()
    events: list[Any] = []

    trainer = InstrumentedGRPOTrainer(
        recorder=StepRecorder(events.append, threading.Event(), 2),
        reward_source=LengthJudge(),
        model=load.load_model(ModelConfig(path="embedded"), "float16"),
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
        processing_class=load.load_tokenizer(ModelConfig(path=str(embedded.model_folder()))),
        train_dataset=Dataset.from_list(training_rows(profile)),
        peft_config=load.peft_config(profile.lora) if adapter else None,
    )
    scaler = SpyingScaler()
    with pytest.MonkeyPatch.context() as patch:
        install_scaler(trainer, patch, scaler)
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


# --- the table ----------------------------------------------------------------------------

TARGET = "Question: how do I end a Python process? Answer: find its number with ps, then kill it politely."
STEPS = 25
"""Enough for the embedded model's loss on the target to fall from 10 to under 0.4 at the higher rates."""
RATES = {"lora": (1e-5, 2e-3), "full": (1e-5, 3e-4)}
"""Those of the profiles (the mps ones and quickstart); at 2e-3 all weights learn in no format."""


def adapted(method: str, dtype: Any) -> torch.nn.Module:
    """The embedded model as the engine loads it, with its adapter where the method has one."""
    torch.manual_seed(0)
    model: torch.nn.Module = load.load_model(ModelConfig(path="embedded"), dtype)
    if method == "lora":
        model = get_peft_model(model, load.peft_config(config().lora))
    return model


def target() -> torch.Tensor:
    tokenizer = load.load_tokenizer(ModelConfig(path="embedded"))
    return tokenizer(TARGET, return_tensors="pt").input_ids


def made_optimizer(name: str, model: torch.nn.Module, training: TrainingConfig) -> Any:
    """The optimizer of a row, from the classes that a run takes it from."""
    learned = [p for p in model.parameters() if p.requires_grad]
    rate = training.learning_rate
    if name == "adamw_kahan":
        made = custom_optimizer(
            training, PrecisionRecipe("bfloat16", False, False, name, beta2=0.99)
        )
        assert made is not None
        return made.optimizer_class(learned, weight_decay=0.0, **made.arguments)
    if name == "adafactor":
        return Adafactor(learned, lr=rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(learned, lr=rate, weight_decay=0.0, fused="fused" in name)


def loss_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@cache
def learned(method: str, dtype: str, autocast: str, optim: str, rate: float) -> tuple[float, float]:
    """Loss on the target before and after some steps of a recipe, both measured in float32."""
    training = TrainingConfig(learning_rate=rate)
    model, ids = adapted(method, dtype), target()
    optimizer = made_optimizer(optim, model, training)
    scaler = torch.amp.GradScaler("cpu", enabled=autocast == "fp16")
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(autocast)
    for _ in range(STEPS):
        with torch.autocast("cpu", half, enabled=half is not None):
            loss = loss_of(model, ids)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    whole = adapted(method, "float32")
    with torch.no_grad():
        before = loss_of(whole, ids).item()
        whole.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
        return before, loss_of(whole, ids).item()


def ways(table: tuple[PrecisionRow, ...]) -> list[Any]:
    return [
        pytest.param(
            row, optim, id=f"{row.device}-{row.method}-{row.weights}-{row.autocast}-{optim}"
        )
        for row in table
        for optim in row.optimizers
    ]


@pytest.mark.parametrize(("row", "optim"), ways(PRECISION_TABLE))
def test_every_row_of_the_table_learns_what_float32_learns(row: PrecisionRow, optim: str) -> None:
    after = float("nan")
    for rate in RATES[row.method]:
        before, after = learned(row.method, row.weights, row.autocast, optim, rate)
        share = (before - after) / (before - exact(row.method, optim, rate))
        assert 0.95 <= share <= 1.05, f"at {rate} it learns {share:.2f} of what float32 learns"
    assert after < 0.4


def exact(method: str, optim: str, rate: float) -> float:
    """The loss that the same optimizer reaches in float32; Kahan's is AdamW."""
    peer = "adafactor" if optim == "adafactor" else "adamw_torch"
    return learned(method, "float32", "none", peer, rate)[1]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("rate", [1e-6, *RATES["full"]])
def test_all_weights_in_float16_are_refused_for_adam_destroys_them(optim: str, rate: float) -> None:
    refused(*FULL, "model.torch_dtype=float16", "training.fp16=false", f"training.optim={optim}")
    before, after = learned("full", "float16", "none", optim, rate)
    assert not (before - after) > 0.5 * (before - exact("full", optim, rate))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor"])
def test_all_weights_in_bfloat16_are_refused_without_kahans_sum_for_updates_are_lost(
    optim: str,
) -> None:
    refused(*FULL, "model.torch_dtype=bfloat16", f"training.optim={optim}")
    before, after = learned("full", "bfloat16", "none", optim, 1e-5)
    assert before - after < 0.1 * (before - exact("full", optim, 1e-5))


def test_an_adapter_on_float16_is_refused_without_a_scaler_for_small_gradients_vanish() -> None:
    refused("model.torch_dtype=float16", "training.fp16=false")
    model = adapted("lora", "float16")
    ids = target()

    def gradients(scale: float) -> torch.Tensor:
        """Of a loss that is a hundred-thousandth, as advantage over tokens may be, computed times `scale`."""
        model.zero_grad()
        with torch.autocast("cpu", torch.float16):
            (loss_of(model, ids) * 1e-5 * scale).backward()
        found = [p.grad.flatten() / scale for p in model.parameters() if p.grad is not None]
        return torch.cat(found)

    wanted = gradients(65536.0)
    assert (gradients(1.0) - wanted).norm() / wanted.norm() > 0.3


def test_what_is_not_in_the_table_is_refused_with_the_nearest_row_that_works() -> None:
    finding = refused("training.bf16=true", "model.torch_dtype=float16", device="cuda")
    assert finding.fix == (
        "the closest combination that works: training.method=lora model.torch_dtype=float16"
        " training.fp16=true training.bf16=false training.optim=adamw_torch_fused"
    )
    asked = finding.fix.removeprefix("the closest combination that works: ").split()
    assert precision.nearest_supported(config(*asked, verify=False), "cuda") is None


@pytest.mark.parametrize(("row", "optim"), ways(PRECISION_TABLE))
def test_every_row_can_be_asked_for_in_a_profile(row: PrecisionRow, optim: str) -> None:
    made = config(
        *row.settings().split(), f"training.optim={optim}", f"device={row.device}", verify=False
    )
    assert [f for f in check_config(made, row.device) if f.severity == "error"] == []


# --- the quick start's crash ----------------------------------------------------------------


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_float16_weights_under_a_scaler_crash_with_and_without_clipping_so_they_are_refused(
    tmp_path: Path, max_grad_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick start's ValueError, which its own `max_grad_norm: 0` does not mend: TRL computes a norm."""
    monkeypatch.setattr(InstrumentedGRPOTrainer, "_get_grad_norm", GRPOTrainer._get_grad_norm)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        train_with_a_scaler(tmp_path, max_grad_norm, adapter=False)
    found = refused(
        *FULL,
        "model.torch_dtype=float16",
        "training.fp16=true",
        f"training.max_grad_norm={max_grad_norm}",
    )
    assert found.text == "the gradient scaler cannot unscale the gradients of float16 weights"


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_an_adapter_on_float16_trains_under_a_scaler_with_and_without_clipping(
    tmp_path: Path, max_grad_norm: float
) -> None:
    _, steps = train_with_a_scaler(tmp_path, max_grad_norm)
    assert len(steps) == 2
    assert steps[-1].weight_delta > steps[0].weight_delta > 0


FULL = ("training.method=full",)


def refused(*overrides: str, device: DeviceName = "mps") -> Finding:
    """The one error that a profile gets on a device."""
    made = config(*overrides, f"device={device}", verify=False)
    errors = [f for f in check_config(made, device) if f.severity == "error"]
    assert len(errors) == 1, errors
    return errors[0]
