"""Number formats: every recipe in the table learns, and the excluded combinations fail."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional
from transformers import Adafactor
from trl import GRPOConfig, GRPOTrainer

from ida_tui.config import embedded, precision
from ida_tui.config.checks import check_config
from ida_tui.config.precision import PRECISION_TABLE, PrecisionRecipe, PrecisionRow
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config, DeviceName, ModelConfig, Quantization
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.run.build import training_dataset
from ida_tui.engine.trainer.arguments import custom_optimizer
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.events.types import StepFinished
from ida_tui.judge import BatchStats, Verdict
from ida_tui.util.finding import Finding
from tests.support.metal import install_scaler
from tests.support.scores import ida_verdict


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


def test_half_precision_on_the_cpu_is_replaced_by_float32_with_a_note() -> None:
    recipe = precision.resolve_precision(
        config("model.torch_dtype=float16", "training.fp16=true"), "cpu"
    )

    assert (recipe.weights, recipe.fp16) == ("float32", False)
    assert len(recipe.notes) == 2
    assert all("float32" in note for note in recipe.notes)


class SpyingScaler(torch.amp.GradScaler):
    """Counts the `unscale_` calls made outside `step`."""

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
    """A fake reward source: align is the completion's length modulo 11."""

    def begin_step(self, step: int, rows: Any) -> None:
        """Called when a rollout starts."""

    def completion_ended(self, row: int, text: str) -> None:
        """Called when a completion has finished."""

    def after_step(self, step: int) -> None:
        """Called when a step has finished."""

    def collect_verdicts(
        self, texts: Sequence[str], group_size: int, token_ids: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Verdict], BatchStats]:
        """Scores every completion."""
        verdicts = [ida_verdict(len(text) % 11, 8, 6) for text in texts]
        return verdicts, BatchStats.from_verdicts(verdicts, 0.1)


def train_with_a_scaler(
    tmp_path: Path, max_grad_norm: float, *, adapter: bool = True
) -> tuple[SpyingScaler, list[Any]]:
    """Two steps of the Metal recipe, simulated on the CPU: fp16 base model, fp32 adapter, fp16 autocast
    and a scaler. transformers ignores fp16 on the CPU, so the test patches accelerate instead."""
    profile = config()
    events: list[Any] = []
    tokenizer = load.load_tokenizer(ModelConfig(path=str(embedded.model_folder())))
    chat_format = ChatFormat(tokenizer, profile.model)

    trainer = InstrumentedGRPOTrainer(
        chat_format=chat_format,
        recorder=StepRecorder(events.append, threading.Event(), 2, IDA_AXIS_NAMES),
        reward_source=LengthJudge(),
        model=load.load_model(
            ModelConfig(path="embedded"),
            "float16",
            load.load_tokenizer(ModelConfig(path="embedded")),
        ),
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
        processing_class=tokenizer,
        train_dataset=training_dataset(profile.prompts, chat_format, with_columns=False),
        peft_config=load.peft_config(profile.lora, profile.model) if adapter else None,
    )
    scaler = SpyingScaler()
    with pytest.MonkeyPatch.context() as patch:
        install_scaler(trainer, patch, scaler)
        trainer.train()
    return scaler, [event for event in events if isinstance(event, StepFinished)]


def test_without_clipping_the_scaler_computes_no_gradient_norm(tmp_path: Path) -> None:
    scaler, steps = train_with_a_scaler(tmp_path, max_grad_norm=0.0)

    assert scaler.unscaled_outside_step == 0
    assert len(steps) == 2
    assert steps[-1].weight_delta > 0


def test_the_gradient_norm_under_a_scaler_is_that_of_the_unscaled_gradients(tmp_path: Path) -> None:
    _, without_clipping = train_with_a_scaler(tmp_path / "a", max_grad_norm=0.0)
    scaler, with_a_high_limit = train_with_a_scaler(tmp_path / "b", max_grad_norm=1e9)

    assert scaler.unscaled_outside_step == 2
    for step, clipped_step in zip(without_clipping, with_a_high_limit, strict=True):
        assert step.grad_norm == pytest.approx(clipped_step.grad_norm, rel=1e-4)
        assert step.grad_norm is not None
        assert step.grad_norm > 0


# --- the table ----------------------------------------------------------------------------

TARGET = "Question: how do I end a Python process? Answer: find its number with ps, then kill it politely."
STEPS = 25
"""Enough for the embedded model's loss on the target to fall from 10 to under 0.4 at the higher rates."""
RATES = {"lora": (1e-5, 2e-3), "full": (1e-5, 3e-4)}
"""Learning rates of the mps profiles and quickstart; at 2e-3 full training fails in every format."""


def load_model_for(method: str, dtype: Any, quantization: Quantization = "none") -> torch.nn.Module:
    """The embedded model as the engine loads it, with an adapter if the method uses one."""
    torch.manual_seed(0)
    source = ModelConfig(path="embedded", quantization=quantization)
    model: torch.nn.Module = load.load_model(source, dtype, load.load_tokenizer(source))
    if method == "lora":
        model = get_peft_model(model, load.peft_config(config().lora, config().model))
    return model


def target_ids() -> torch.Tensor:
    tokenizer = load.load_tokenizer(ModelConfig(path="embedded"))
    return tokenizer(TARGET, return_tensors="pt").input_ids


def build_optimizer(name: str, model: torch.nn.Module, training: TrainingConfig) -> Any:
    """The optimizer of a table row, built from the classes that a run uses."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    rate = training.learning_rate
    if name == "adamw_kahan":
        custom = custom_optimizer(
            training, PrecisionRecipe("bfloat16", False, False, name, beta2=0.99)
        )
        assert custom is not None
        return custom.optimizer_class(trainable, weight_decay=0.0, **custom.arguments)
    if name == "adafactor":
        return Adafactor(trainable, lr=rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0, fused="fused" in name)


def target_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@cache
def losses_before_and_after(
    method: str,
    dtype: str,
    autocast: str,
    optim: str,
    rate: float,
    quantization: Quantization = "none",
) -> tuple[float, float]:
    """Losses on the target before and after `STEPS` steps of a recipe, both measured in float32."""
    training = TrainingConfig(learning_rate=rate)
    model, ids = load_model_for(method, dtype, quantization), target_ids()
    optimizer = build_optimizer(optim, model, training)
    scaler = torch.amp.GradScaler("cpu", enabled=autocast == "fp16")
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(autocast)
    for _ in range(STEPS):
        with torch.autocast("cpu", half, enabled=half is not None):
            loss = target_loss(model, ids)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    float32_model = load_model_for(method, "float32", quantization)
    with torch.no_grad():
        before = target_loss(float32_model, ids).item()
        float32_model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        )
        return before, target_loss(float32_model, ids).item()


def row_params(table: tuple[PrecisionRow, ...]) -> list[Any]:
    return [
        pytest.param(
            row,
            optim,
            id="-".join(
                (row.device, row.method, row.quantization, row.weights, row.autocast, optim)
            ).replace("-none-", "-", 1),
        )
        for row in table
        for optim in row.optimizers
    ]


@pytest.mark.parametrize(("row", "optim"), row_params(PRECISION_TABLE))
def test_every_row_of_the_table_learns_what_float32_learns(row: PrecisionRow, optim: str) -> None:
    after = float("nan")
    # The loss is that of weights unpacked to float32, but a row with 16 bits trains on rounded ones.
    least = 0.95 if row.quantization == "none" else 0.9
    for rate in RATES[row.method]:
        before, after = losses_before_and_after(
            row.method, row.weights, row.autocast, optim, rate, row.quantization
        )
        expected = float32_loss(row.method, optim, rate, row.quantization)
        share = (before - after) / (before - expected)
        assert least <= share <= 1.05, f"at {rate} it learns {share:.2f} of what float32 learns"
    assert after < 0.4


def float32_loss(
    method: str, optim: str, rate: float, quantization: Quantization = "none"
) -> float:
    """The loss that the same optimizer reaches in float32; for adamw_kahan that is AdamW."""
    peer = "adafactor" if optim == "adafactor" else "adamw_torch"
    return losses_before_and_after(method, "float32", "none", peer, rate, quantization)[1]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("rate", [1e-6, *RATES["full"]])
def test_full_training_in_float16_is_refused_because_adam_destroys_the_weights(
    optim: str, rate: float
) -> None:
    only_error(*FULL, "model.torch_dtype=float16", "training.fp16=false", f"training.optim={optim}")
    before, after = losses_before_and_after("full", "float16", "none", optim, rate)
    assert not (before - after) > 0.5 * (before - float32_loss("full", optim, rate))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor"])
def test_full_training_in_bfloat16_without_kahan_summation_is_refused_because_updates_are_lost(
    optim: str,
) -> None:
    only_error(*FULL, "model.torch_dtype=bfloat16", f"training.optim={optim}")
    before, after = losses_before_and_after("full", "bfloat16", "none", optim, 1e-5)
    assert before - after < 0.1 * (before - float32_loss("full", optim, 1e-5))


def test_a_float16_adapter_without_a_scaler_is_refused_because_small_gradients_vanish() -> None:
    only_error("model.torch_dtype=float16", "training.fp16=false")
    model = load_model_for("lora", "float16")
    ids = target_ids()

    def gradients(scale: float) -> torch.Tensor:
        """Gradients of a loss of realistic size (1e-5), computed at `scale` and scaled back."""
        model.zero_grad()
        with torch.autocast("cpu", torch.float16):
            (target_loss(model, ids) * 1e-5 * scale).backward()
        flat = [p.grad.flatten() / scale for p in model.parameters() if p.grad is not None]
        return torch.cat(flat)

    scaled_gradients = gradients(65536.0)
    assert (gradients(1.0) - scaled_gradients).norm() / scaled_gradients.norm() > 0.3


def test_a_combination_outside_the_table_is_refused_with_the_nearest_one_that_works() -> None:
    finding = only_error("training.bf16=true", "model.torch_dtype=float16", device="cuda")
    assert finding.fix == (
        "the closest combination that works: training.method=lora model.torch_dtype=float16"
        " training.fp16=true training.bf16=false training.optim=adamw_torch_fused"
    )
    overrides = finding.fix.removeprefix("the closest combination that works: ").split()
    assert precision.nearest_supported(config(*overrides, verify=False), "cuda") is None


@pytest.mark.parametrize(("row", "optim"), row_params(PRECISION_TABLE))
def test_every_row_can_be_configured_in_a_profile(row: PrecisionRow, optim: str) -> None:
    row_config = config(
        *row.settings().split(), f"training.optim={optim}", f"device={row.device}", verify=False
    )
    assert [f for f in check_config(row_config, row.device) if f.severity == "error"] == []


# --- float16 weights under a scaler ----------------------------------------------------------------


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_float16_weights_under_a_scaler_crash_with_and_without_clipping_so_they_are_refused(
    tmp_path: Path, max_grad_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_grad_norm: 0` does not avoid this ValueError, because TRL computes a norm anyway."""
    monkeypatch.setattr(InstrumentedGRPOTrainer, "_get_grad_norm", GRPOTrainer._get_grad_norm)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        train_with_a_scaler(tmp_path, max_grad_norm, adapter=False)
    error = only_error(
        *FULL,
        "model.torch_dtype=float16",
        "training.fp16=true",
        f"training.max_grad_norm={max_grad_norm}",
    )
    assert error.text == "the gradient scaler cannot unscale the gradients of float16 weights"


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_an_adapter_on_float16_trains_under_a_scaler_with_and_without_clipping(
    tmp_path: Path, max_grad_norm: float
) -> None:
    _, steps = train_with_a_scaler(tmp_path, max_grad_norm)
    assert len(steps) == 2
    assert steps[-1].weight_delta > steps[0].weight_delta > 0


FULL = ("training.method=full",)


def only_error(*overrides: str, device: DeviceName = "mps") -> Finding:
    """The single error that the check reports for a profile on a device."""
    profile = config(*overrides, f"device={device}", verify=False)
    errors = [f for f in check_config(profile, device) if f.severity == "error"]
    assert len(errors) == 1, errors
    return errors[0]
