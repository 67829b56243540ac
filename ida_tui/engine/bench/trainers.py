"""Trainers of the step benchmark: TRL with its defaults, TRL tuned by hand, and ida-tui.

default   trl.GRPOTrainer with its defaults (gradient checkpointing, batches of 8)
tuned     trl.GRPOTrainer without gradient checkpointing, the full step as one batch
ours      the fast engine of ida-tui

On the CPU, ours computes in float32. With real weights TRL's trainers compute in the number format that TRL
chooses (bfloat16 by autocast), with random weights in float32. For them this module imports nothing that a
plain script would not import, but the cases and the simulated judge.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ida_tui.engine.bench.cases import PROMPT_TOKENS, SHAPES, BenchCase
from ida_tui.engine.bench.simulated_judge import SimulatedJudge

WEIGHT_FORMATS = {"cpu": "float32", "mps": "float16", "cuda": "bfloat16"}
"""Format of the base model's weights on each device."""


@dataclass(slots=True)
class BenchTrainer:
    """A trainer, and what it records in each step."""

    trainer: Any
    judge: SimulatedJudge
    clock: Any
    """Its `ends` are the times at which the steps ended."""
    phases: list[dict[str, float]]
    """Seconds of each phase, for every step."""
    check_s: list[float] = field(default_factory=list)
    """Seconds of each check of the log-probabilities."""
    notes: list[str] = field(default_factory=list)
    """Warnings of the engine, such as that TRL's code is used instead."""


def build_bench_trainer(
    trainer_name: str,
    case: BenchCase,
    steps: Sequence[int],
    folder: Path,
    model_folder: str | None = None,
    device: str = "cpu",
) -> BenchTrainer:
    """Build a trainer.

    Args:
        trainer_name: `default`, `tuned` or `ours`.
        case: the case.
        steps: for each step that is trained, the step whose completion lengths and latencies it has.
        folder: an empty folder for the trainer's files.
        model_folder: folder of the real weights; None for random weights.
        device: the device to train on.
    """
    import peft
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
    from trl import GRPOConfig

    class StepClock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    model, tokenizer = _load_model(case, model_folder, device)
    rows = case.generations * case.prompts
    batch = {"default": min(8, rows), "tuned": rows, "ours": rows}[trainer_name]
    formats = {"fp16": device == "mps", "bf16": device == "cuda"}
    if case.is_real and device == "cpu" and trainer_name != "ours":
        formats = {}
    arguments = GRPOConfig(
        output_dir=str(folder), use_cpu=device == "cpu", **formats, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, max_steps=len(steps), num_generations=case.generations,
        per_device_train_batch_size=batch, gradient_accumulation_steps=rows // batch,
        max_completion_length=case.longest, beta=case.beta, learning_rate=1e-5, top_k=0,
        **({} if trainer_name == "default" else {"gradient_checkpointing": False}),
    )  # fmt: skip
    text = " ".join(f"number {n} and then" for n in range(PROMPT_TOKENS))[: 3 * PROMPT_TOKENS]
    prompts = [
        {"prompt": [{"role": "user", "content": f"{text} {p}"}], "prompt_id": str(p),
         "prompt_text": str(p), "kind": "harmless", "context": [], "columns": "{}"}
        for p in range(case.prompts)
    ]  # fmt: skip
    judge = SimulatedJudge(case, judge_early=trainer_name == "ours")
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    shared: dict[str, Any] = {
        "model": model, "args": arguments, "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(prompts), "peft_config": lora,
    }  # fmt: skip
    if trainer_name == "ours":
        from ida_tui.engine.bench.fast_trainer import build_fast_trainer

        bench = build_fast_trainer(case, judge, shared)
    else:
        phases: list[dict[str, float]] = []
        trainer = _trl_trainer_class(case, steps, tokenizer.eos_token_id, judge, phases)(
            reward_funcs=lambda completions, **_: judge.wait_for_rewards(len(completions)), **shared
        )
        bench = BenchTrainer(trainer, judge, None, phases)
    bench.clock = StepClock()
    bench.trainer.add_callback(bench.clock)
    bench.trainer.remove_callback(PrinterCallback)
    bench.trainer.remove_callback(ProgressCallback)
    return bench


def _load_model(case: BenchCase, model_folder: str | None, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a case, as a script for TRL loads them."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    dtype = getattr(torch, WEIGHT_FORMATS[device])
    if model_folder is not None:
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        # A completion ends where the case says, and nowhere else.
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        return model, tokenizer
    from ida_tui.config.embedded import model_folder as embedded_folder

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    kind: Any = (LlamaConfig, LlamaForCausalLM) if case.is_real else (Qwen3Config, Qwen3ForCausalLM)
    make_config, make_model = kind
    config = make_config(
        **SHAPES[case.shape], max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return make_model(config).to(dtype), tokenizer


def _trl_trainer_class(
    case: BenchCase,
    steps: Sequence[int],
    eos: int,
    judge: SimulatedJudge,
    phases: list[dict[str, float]],
) -> Any:
    """TRL's trainer with phase timing, and completion lengths forced to those of the case."""
    from functools import partial

    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    from trl import GRPOTrainer

    class ForcedLengths(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, lengths: list[int]) -> None:
            self._lengths, self._position = lengths, 0

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self._position += 1
            scores[:, eos] = -torch.inf
            ending = [row for row, length in enumerate(self._lengths) if length == self._position]
            scores[ending] = -torch.inf
            scores[ending, eos] = 0.0
            return scores

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _clock(self, phase: str, call: Any) -> Any:
            started = time.perf_counter()
            try:
                return call()
            finally:
                spent = self.__dict__.setdefault("_spent", {})
                spent[phase] = spent.get(phase, 0.0) + time.perf_counter() - started

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            step = steps[self.state.global_step]
            judge.begin_step(step, None)
            base = self.accelerator.unwrap_model(self.model_wrapped)
            force = LogitsProcessorList([ForcedLengths(case.completion_lengths(step))])
            base.generate = partial(base.generate, logits_processor=force)
            try:
                return self._clock(
                    "generate", lambda: GRPOTrainer._generate_single_turn(self, *args, **kwargs)
                )
            finally:
                del base.generate

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            return self._clock(
                "judge", lambda: GRPOTrainer._calculate_rewards(self, *args, **kwargs)
            )

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            call = partial(GRPOTrainer._get_per_token_logps_and_entropies, self, *args, **kwargs)
            return call() if torch.is_grad_enabled() else self._clock("reference", call)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            before = dict(self.__dict__.get("_spent", {}))
            started = time.perf_counter()
            loss = GRPOTrainer.training_step(self, *args, **kwargs)
            inside = sum(self.__dict__["_spent"].values()) - sum(before.values())
            spent = self.__dict__["_spent"]
            spent["update"] = spent.get("update", 0.0) + time.perf_counter() - started - inside
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                phases.append(self.__dict__.pop("_spent"))

    return Timed
