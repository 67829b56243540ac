"""One short training, by a script of TRL and by ida-tui."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from ida_tui.config import embedded
from ida_tui.config.schema import Config, Prompt
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.loop import train
from ida_tui.events.types import Record, RunEnded, StepFinished

SETTINGS: dict[str, Any] = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 24,
    "learning_rate": 1e-3,
    # With AdamW's usual epsilon, a gradient of rounding noise moves a weight as far as a real one.
    "adam_epsilon": 1e-4,
    "scale_rewards": "batch",
}
"""Settings that the script and the profile have in common, by the same names."""


class ReplayingTrainer(GRPOTrainer):
    """TRL's trainer with completions that were drawn before."""

    drawn: Iterator[list[list[int]]]

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        return next(self.drawn), None


def overrides(*, steps: int, seed: int) -> list[str]:
    """The overrides of a profile that trains as the script does."""
    return [
        "evaluation.enabled=false",
        f"seed={seed}",
        f"training.max_steps={steps}",
        *(f"training.{name}={value}" for name, value in SETTINGS.items()),
    ]


def run_script(
    config: Config,
    reward_functions: list[Callable[..., list[float]]],
    columns: Callable[[Prompt], dict[str, Any]],
    output: Path,
    trainer_class: type[GRPOTrainer] = GRPOTrainer,
    model: Path | None = None,
) -> GRPOTrainer:
    """The trainer after a training that is written directly against TRL.

    Args:
        config: the resolved profile; has the overrides of `overrides`.
        reward_functions: functions in TRL's form.
        columns: the columns of a prompt besides its text.
        output: the folder of TRL's files.
        trainer_class: TRL's trainer, or a subclass.
        model: the folder of the model; None for the embedded one.
    """
    training, folder = config.training, model or embedded.model_folder()
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=reward_functions,
        args=GRPOConfig(
            **SETTINGS,
            output_dir=str(output),
            seed=config.seed,
            max_steps=training.max_steps,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=training.warmup_steps,
            loss_type=training.loss_type,
            max_grad_norm=training.max_grad_norm,
            temperature=training.temperature,
            top_k=training.top_k,
            beta=training.beta,
            num_iterations=training.num_iterations,
            optim="adamw_torch",
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": prompt.text}], **columns(prompt)}
                for prompt in config.prompts.train()
            ]
        ),
        peft_config=LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=config.lora.target_modules,
            task_type="CAUSAL_LM",
        )
        if training.method == "lora"
        else None,
    )
    trainer.train()
    return trainer


def logged(trainer: GRPOTrainer, name: str) -> list[float]:
    """A figure of every step that TRL logged."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def run_ida_tui(config: Config) -> tuple[list[StepFinished], Path]:
    """The steps of a completed run of ida-tui, and its directory."""
    records: queue.SimpleQueue[Record] = queue.SimpleQueue()
    train(config, key=None, argv=[], subscriber=records, control=RunControl())
    events = []
    while not records.empty():
        events.append(records.get().event)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].exit_code == 0, events[-1]
    steps = [event for event in events if isinstance(event, StepFinished)]
    return steps, Path(config.output_dir) / config.name / "latest"
