"""Trainers of the step benchmark (TRL, tuned TRL, ida-tui), and the process that measures a trainer.

  python -m ida_tui.engine.bench.trainers default|tuned|ours cpu|mps|cuda

reads cases from standard input and prints their figures. The trainers are:

default   trl.GRPOTrainer with its defaults (gradient checkpointing, batches of 8)
tuned     trl.GRPOTrainer without gradient checkpointing, the full step as one batch
ours      the fast engine of ida-tui
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ida_tui.config.schema import DeviceName
from ida_tui.engine.bench.cases import PROMPT_TOKENS, SHAPES, BenchCase

WEIGHT_FORMATS = {"cpu": "float32", "mps": "float16", "cuda": "bfloat16"}
"""Format of the base model's weights on each device."""


class SimulatedJudge:
    """Simulated judge: a thread pool that takes 0.5 to 1.5 s per completion, the same for every trainer."""

    def __init__(self, case: BenchCase, *, judge_early: bool) -> None:
        self._case, self._judge_early = case, judge_early
        self._pool = ThreadPoolExecutor(case.slots)
        self._pending: dict[int, Future[float]] = {}
        self.judge_s: list[float] = []
        self.exposed_s: list[float] = []

    def begin_step(self, step: int, rows: Any) -> None:
        """Called when a rollout starts."""
        self._step, self._pending = step, {}

    def completion_ended(self, row: int, text: str) -> None:
        """Called when a completion is finished; TRL's trainers only report all of them at the end."""
        if self._judge_early:
            self._pending[row] = self._pool.submit(self._judge, row)

    def wait_for_rewards(self, rows: int) -> list[float]:
        """Rewards of every completion of the step; waits for them."""
        started = time.perf_counter()
        for row in range(rows):
            if row not in self._pending:
                self._pending[row] = self._pool.submit(self._judge, row)
        rewards = [self._pending[row].result() for row in range(rows)]
        self.exposed_s.append(time.perf_counter() - started)
        # The time that judging alone would take with these slots.
        latencies = [self._latency(row) for row in range(rows)]
        slot_seconds = [0.0] * self._case.slots
        for latency in latencies:
            soonest = min(range(len(slot_seconds)), key=slot_seconds.__getitem__)
            slot_seconds[soonest] += latency
        self.judge_s.append(max(slot_seconds))
        return rewards

    def collect_verdicts(self, texts: list[str], group_size: int, token_ids: object = ()) -> Any:
        """Verdicts and figures of the step, as `RewardCollector` returns them."""
        from ida_tui.judge import BatchStats, Verdict
        from ida_tui.rewards.formulas import IDA_FORMULAS

        r_ida = IDA_FORMULAS["r_ida"]
        verdicts = [
            Verdict.scored({"align": score, "risk": 8.0, "detail": 6.0}, "", "slow").with_reward(
                r_ida
            )
            for score in self.wait_for_rewards(len(texts))
        ]
        return verdicts, BatchStats.from_verdicts(
            verdicts, self.judge_s[-1], exposed_s=self.exposed_s[-1]
        )

    def after_step(self, step: int) -> None:
        """Called when a step is finished."""

    def _latency(self, row: int) -> float:
        return random.Random(f"{self._case.name} {self._step} {row}").uniform(0.5, 1.5)

    def _judge(self, row: int) -> float:
        time.sleep(self._latency(row))
        return random.Random(f"{self._step} {row}").uniform(1, 9)


def serve(trainer_name: str, device: DeviceName) -> int:
    """Read cases from standard input, train them, and write their figures to standard output."""
    import warnings

    warnings.simplefilter("ignore")
    from ida_tui.engine import libraries
    from ida_tui.engine.device.device import limit_threads
    from ida_tui.system import allocator

    libraries.set_library_defaults(None)
    allocator.keep_freed_memory()
    limit_threads()
    for line in sys.stdin:
        print(
            json.dumps(measure_case(trainer_name, BenchCase(**json.loads(line)), device)),
            flush=True,
        )
        gc.collect()
    return 0


def measure_case(trainer_name: str, case: BenchCase, device: DeviceName = "cpu") -> dict[str, Any]:
    """Train one case: a warm-up step and one measured step; returns its figures.

    The wait for the judge varies more, so `ours` averages it over four steps if beta is above 0.
    """
    import tempfile

    steps = 5 if trainer_name == "ours" and case.beta else 2
    with tempfile.TemporaryDirectory() as folder:
        trainer, judge, seconds = build_bench_trainer(
            trainer_name, case, steps, Path(folder), device
        )
        base = _reset_peak(device)
        trainer.train()
        peak = _peak_mb(device)
    return {
        "step_s": sum(seconds[1].values()),
        "phases": seconds[1],
        "peak_mb": None if base is None or peak is None else peak - base,
        "judge_s": sum(judge.judge_s[1:]),
        "exposed_s": sum(judge.exposed_s[1:]),
    }


def build_bench_trainer(
    trainer_name: str, case: BenchCase, steps: int, folder: Path, device: DeviceName = "cpu"
) -> tuple[Any, SimulatedJudge, list[dict[str, float]]]:
    """Build a trainer; returns it with its judge and the list to which each step's seconds are appended."""
    import threading

    import peft
    import torch
    from datasets import Dataset
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import GRPOConfig

    from ida_tui.config.conversation import chat_messages
    from ida_tui.config.schema import ModelConfig
    from ida_tui.engine.model.chat_format import ChatFormat
    from ida_tui.engine.model.load import load_tokenizer

    torch.manual_seed(0)
    model_config = ModelConfig(path="embedded")
    tokenizer = load_tokenizer(model_config)
    eos = tokenizer.eos_token_id
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **SHAPES[case.shape], max_position_embeddings=4096, tie_word_embeddings=True,
            eos_token_id=eos, pad_token_id=tokenizer.pad_token_id,
        )
    ).to(getattr(torch, WEIGHT_FORMATS[device]))  # fmt: skip
    rows = case.generations * case.prompts
    batch = {"default": min(8, rows), "tuned": rows, "ours": rows}[trainer_name]
    arguments = GRPOConfig(
        output_dir=str(folder), use_cpu=device == "cpu", fp16=device == "mps",
        bf16=device == "cuda", report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, max_steps=steps, num_generations=case.generations,
        per_device_train_batch_size=batch, gradient_accumulation_steps=rows // batch,
        max_completion_length=case.longest, beta=case.beta, learning_rate=1e-5, top_k=0,
        **({} if trainer_name == "default" else {"gradient_checkpointing": False}),
    )  # fmt: skip
    phrases = [f"number {n} and then" for n in range(PROMPT_TOKENS)]
    prompts = [
        {"prompt": chat_messages(" ".join(phrases)[: 3 * PROMPT_TOKENS] + f" {p}"),
         "prompt_id": str(p), "prompt_text": str(p), "kind": "harmless", "context": [], "columns": "{}"}
        for p in range(case.prompts)
    ]  # fmt: skip
    judge = SimulatedJudge(case, judge_early=trainer_name == "ours")
    seconds: list[dict[str, float]] = []
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    shared: dict[str, Any] = {
        "model": model, "args": arguments, "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(prompts), "peft_config": lora,
    }  # fmt: skip
    if trainer_name == "ours":
        from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
        from ida_tui.engine.trainer.recorder import StepRecorder
        from ida_tui.events.types import StepFinished

        def emit(event: Any) -> None:
            if isinstance(event, StepFinished):
                seconds.append(dict(event.seconds))

        trainer = _fast_trainer_class(case, eos)(
            recorder=StepRecorder(emit, threading.Event(), steps, IDA_AXIS_NAMES),
            reward_source=judge,
            chat_format=ChatFormat(tokenizer, model_config),
            **shared,
        )
    else:
        trainer = _trl_trainer_class(case, eos, judge, seconds)(
            reward_funcs=lambda completions, **_: judge.wait_for_rewards(len(completions)), **shared
        )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer, judge, seconds


def _fast_trainer_class(case: BenchCase, eos: int) -> Any:
    """The fast trainer, with completion lengths forced to those of the case."""
    import torch

    from ida_tui.engine.rollout.sampling import TokenSampler
    from ida_tui.engine.trainer import fast

    class ForcedLengthSampler(TokenSampler):
        def begin(self, step: int) -> ForcedLengthSampler:
            object.__setattr__(self, "_left", case.completion_lengths(step))
            return self

        def draw(
            self,
            logits: torch.Tensor,
            seen: torch.Tensor | None = None,
            uniforms: torch.Tensor | None = None,
        ) -> torch.Tensor:
            remaining = [n - 1 for n in self._left]  # type: ignore[attr-defined]
            logits = logits.clone()
            logits[:, eos] = -torch.inf
            tokens = super().draw(logits, seen, uniforms)
            tokens[[row for row, n in enumerate(remaining) if n == 0]] = eos
            object.__setattr__(self, "_left", [n for n in remaining if n > 0])
            return tokens

    class ForcedLengthTrainer(fast.FastTrainer):
        def _token_sampler(self) -> TokenSampler:
            return ForcedLengthSampler().begin(self._current_step)

    return ForcedLengthTrainer


def _trl_trainer_class(
    case: BenchCase, eos: int, judge: SimulatedJudge, seconds: list[dict[str, float]]
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
            step = self.state.global_step + 1
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
                seconds.append(self.__dict__.pop("_spent"))

    return Timed


def _reset_peak(device: DeviceName) -> float | None:
    """Reset the peak memory; returns the memory held now in MB, or None if it cannot be measured."""
    import torch

    from ida_tui.system import allocator

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform.startswith("linux"):
        allocator.release_free_memory()
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb(device)


def _peak_mb(device: DeviceName) -> float | None:
    """Peak memory since the last reset, in MB; None on Metal and outside Linux, which do not record it."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if device == "mps" or not sys.platform.startswith("linux"):
        return None
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2]))  # type: ignore[arg-type]
