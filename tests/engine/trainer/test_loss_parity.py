"""Parity with plain TRL of every loss, level of probability ratios, and option of a loss.

All engines train with the same scripted completions, each rollout for two steps, so that probability ratios
differ from 1. The plain engine must be equal to TRL. The fast engine may differ by what rounding explains:
1e-5 of the weights' norm, and of the terms that a loss adds up (log-probabilities in cispo and vespo).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import ida_tui
from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.config.sections.training import LossType
from ida_tui.events.types import Noticed, Record
from ida_tui.rewards.r_ida import r_ida
from tests.support.judge_server import verdict_for
from tests.support.scripted_completions import script_completions

STEPS, TOLERANCE, LOGPROB_TERMS = 2, 1e-5, 8.0
COMMON: Mapping[str, Any] = {
    "max_steps": STEPS, "num_generations": 4, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1, "max_completion_length": 16, "learning_rate": 1e-3,
    # A larger epsilon, so that rounding of a gradient near 0 does not decide the sign of an update.
    "adam_epsilon": 1e-3, "num_iterations": 2, "scale_rewards": "batch",
}  # fmt: skip
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "two-sided-with-kl": {"loss_type": "grpo", "delta": 1.05, "epsilon": 0.05, "epsilon_high": 0.1,
                          "beta": 0.1},
    "sapo-temperatures": {"loss_type": "sapo", "sapo_temperature_neg": 2.0,
                          "sapo_temperature_pos": 0.5, "beta": 0.1, "use_bias_correction_kl": False},
    "vespo-weights": {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_pos": 0.5,
                      "vespo_k_neg": 0.5, "vespo_lambda_neg": 0.0, "off_policy_mask_threshold": 1e-6},
    "entropy-bonus": {"entropy_coef": 0.05, "steps_per_generation": 2, "num_iterations": 1},
    "adaptive-entropy": {"entropy_coef": 0.02, "use_adaptive_entropy": True, "entropy_target": 50.0,
                         "entropy_coef_delta": 0.01, "top_entropy_quantile": 0.5},
    "schedule": {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.2},
                 "warmup_steps": 0.3, "generation_batch_size": 8},
}  # fmt: skip
LEVELS = [
    {"loss_type": loss, "importance_sampling_level": level}
    | ({"epsilon_high": 5.0} if loss == "cispo" else {})
    for loss in get_args(LossType)
    for level in ("token", "sequence")
]
CASES = [*LEVELS, *OPTIONS.values()]
NAMES = ["-".join(map(str, case.values())) for case in LEVELS] + list(OPTIONS)
Figures = tuple[list[float], dict[str, torch.Tensor]]


def reward(completions: list[Any], **_: Any) -> list[float]:
    """The reward of a scripted completion, as a function of TRL."""
    scores = [verdict_for(messages[-1]["content"]) for messages in completions]
    return [r_ida(*(float(score[axis]) for axis in IDA_AXIS_NAMES)) for score in scores]


@cache
def dataset() -> Dataset:
    prompts = resolve("quickstart").config.prompts.train()
    return Dataset.from_list([{"prompt": [{"role": "user", "content": p.text}]} for p in prompts])


def train_with_trl(arguments: Mapping[str, Any], folder: Path) -> Figures:
    """Losses and final weights of a training written against TRL."""
    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
            if "loss" in logs:
                losses.append(logs["loss"])

    defaults = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "temperature": 1.0}
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(embedded.model_folder(), dtype=torch.float32),
        reward_funcs=reward,
        args=trl.GRPOConfig(
            output_dir=str(folder), seed=0, optim="adamw_torch", bf16=False, use_cpu=True,
            gradient_checkpointing=False, report_to="none", logging_steps=1, save_strategy="no",
            disable_tqdm=True, **(defaults | COMMON | arguments),
        ),
        processing_class=AutoTokenizer.from_pretrained(embedded.model_folder(), padding_side="left"),
        train_dataset=dataset(),
        callbacks=[Losses()],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    names = (".default", "")
    return losses, {
        name.replace(*names): weight.detach()
        for name, weight in trainer.model.state_dict().items()
        if "lora_" in name
    }


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Figures]:
    """Returns a function: `trl`, `plain` or `fast`, and the index of a case → its losses and weights."""

    @cache
    def figures_of(engine: str, index: int) -> Figures:
        folder, case = tmp_path_factory.mktemp(engine), CASES[index]
        with pytest.MonkeyPatch.context() as patch:
            script_completions(patch)
            if engine == "trl":
                return train_with_trl(case, folder)
            texts: list[str] = []

            def keep(record: Record) -> None:
                if isinstance(record.event, Noticed):
                    texts.append(record.event.text)

            settings = COMMON | {"temperature": 1.0} | case
            run = ida_tui.run(
                "quickstart", "evaluation.enabled=false", "training.lr_scheduler_type=constant",
                "training.max_grad_norm=0", "training.top_k=0", "training.warmup_steps=0",
                f"engine={engine}", f"output_dir={folder}",
                *(f"training.{name}={_typed(value)}" for name, value in settings.items()),
                on_event=keep,
            )  # fmt: skip
        assert run.exit_code == 0, run.state.ended
        assert not [text for text in texts if "The fast step is off" in text]
        losses = [step.loss for step in run.steps]
        return losses, load_file(run.directory / "adapter/adapter_model.safetensors")  # type: ignore[return-value]

    return figures_of


def _typed(value: Any) -> str:
    """A value as an override is typed."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def norm(weights: Mapping[str, torch.Tensor]) -> float:
    return float(
        torch.stack([weight.double().square().sum() for weight in weights.values()]).sum().sqrt()
    )


@pytest.mark.parametrize(
    ("engine", "index"),
    [
        pytest.param(engine, index, id=f"{engine}-{name}")
        for index, name in enumerate(NAMES)
        for engine in (("plain", "fast") if index < len(LEVELS) else ("fast",))
    ],
)
def test_every_loss_has_the_losses_and_final_weights_of_trl(
    engine: str, index: int, figures: Callable[[str, int], Figures]
) -> None:
    expected_losses, expected = figures("trl", index)
    losses, weights = figures(engine, index)
    assert len(losses) == STEPS
    assert any(losses)
    assert weights.keys() == expected.keys()
    if engine == "plain":
        assert losses == expected_losses
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        return
    is_logprob_loss = CASES[index].get("loss_type") in ("cispo", "vespo")
    tolerance = TOLERANCE * (LOGPROB_TERMS if is_logprob_loss else 1.0)
    assert losses == pytest.approx(expected_losses, rel=TOLERANCE, abs=tolerance)
    difference = {name: weights[name] - expected[name] for name in expected}
    assert norm(difference) <= TOLERANCE * norm(expected)
