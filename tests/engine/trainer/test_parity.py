"""Parity with plain TRL on the CPU: the same losses and the same final weights, bit for bit."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.device import device
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.loop import train
from ida_tui.events.types import Record, RunEnded, StepFinished
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from ida_tui.rewards.r_ida import r_ida

STEPS, SEED = 4, 11
OVERRIDES = [
    "engine=plain",
    "evaluation.enabled=false",
    f"seed={SEED}",
    f"training.max_steps={STEPS}",
    "training.num_generations=4",
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=2",
    "training.max_completion_length=24",
    "training.learning_rate=1e-3",
    "training.scale_rewards=batch",
]


def plain_trl(
    config: Config, method: str, beta: float, output: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training written directly against TRL."""
    scorer = OfflineScorer([prompt.text for prompt in config.prompts.prompts])

    def reward(completions, prompt_text, kind, **_):  # type: ignore[no-untyped-def]
        scores = [
            scorer.score(p, k, c[-1]["content"])
            for p, k, c in zip(prompt_text, kind, completions, strict=True)
        ]
        return [r_ida(s.align, s.risk, s.detail) for s in scores]

    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
            if "loss" in logs:
                losses.append(logs["loss"])

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(embedded.model_folder(), dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(output),
            seed=SEED,
            max_steps=STEPS,
            num_generations=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_completion_length=24,
            learning_rate=1e-3,
            lr_scheduler_type=config.training.lr_scheduler_type,
            warmup_steps=config.training.warmup_steps,
            loss_type=config.training.loss_type,
            max_grad_norm=config.training.max_grad_norm,
            temperature=config.training.temperature,
            top_k=config.training.top_k,
            scale_rewards="batch",
            beta=beta,
            num_iterations=config.training.num_iterations,
            optim="adamw_torch",
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=AutoTokenizer.from_pretrained(
            embedded.model_folder(), padding_side="left"
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": p.text}],
                    "prompt_text": p.text,
                    "kind": p.kind,
                }
                for p in config.prompts.train()
            ]
        ),
        callbacks=[Losses()],
        peft_config=LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=config.lora.target_modules,
            task_type="CAUSAL_LM",
        )
        if method == "lora"
        else None,
    )
    trainer.train()
    return losses, dict(trainer.model.state_dict())


def train_with_ida_tui(config: Config) -> tuple[list[float | None], Path]:
    records: queue.SimpleQueue[Record] = queue.SimpleQueue()
    train(config, key=None, argv=[], subscriber=records, control=RunControl())
    events = []
    while not records.empty():
        events.append(records.get().event)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].exit_code == 0, events[-1]
    losses = [event.loss for event in events if isinstance(event, StepFinished)]
    return losses, Path(config.output_dir) / config.name / "latest"


@pytest.mark.parametrize(
    ("method", "beta", "iterations"),
    [("lora", 0.0, 1), ("lora", 0.04, 1), ("full", 0.04, 1), ("lora", 0.0, 2), ("full", 0.04, 3)],
)
def test_the_plain_engine_gives_the_losses_and_weights_of_plain_trl(
    method: str, beta: float, iterations: int, tmp_path: Path
) -> None:
    settings = f"{{method: {method}, beta: {beta}, num_iterations: {iterations}}}"
    config = resolve("quickstart", [*OVERRIDES, f"training={settings}"]).config

    device.limit_threads()  # sums differ in their last bits with the number of threads
    expected_losses, expected_weights = plain_trl(config, method, beta, tmp_path / "trl")
    losses, directory = train_with_ida_tui(config)

    assert losses == expected_losses
    assert any(loss != 0 for loss in losses)
    base = AutoModelForCausalLM.from_pretrained(
        embedded.model_folder() if method == "lora" else directory / "model", dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, directory / "adapter") if method == "lora" else base
    weights = model.state_dict()
    trained = [name for name in expected_weights if method == "full" or "lora_" in name]
    assert trained
    for name in trained:
        assert torch.equal(weights[name], expected_weights[name]), name
