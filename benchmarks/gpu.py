"""Benchmark of a GRPO step on a GPU: TRL with defaults, TRL tuned by hand, ida-tui, and vLLM if installed.

    uv run python benchmarks/gpu.py                       # bfloat16, and float16 with a gradient scaler
    uv run python benchmarks/gpu.py --quick --json gpu.json
    uv run python benchmarks/gpu.py --device cpu --quick  # a tiny model, to test the script

The model has the shape of Qwen3-4B and random weights, so completions do not end before T tokens: every
trainer computes the same number. LoRA r 16, one prompt, G 8, T 512. Each trainer runs in a process of its own
with the settings that it comes with. Two steps warm up, in which ida-tui also compares its log-probabilities
with TRL's (later only every 25 steps); the steps after them are measured. The figures are written to
benchmarks/results/, in a file named after the device.

*Tuned* is TRL without gradient checkpointing and with the whole step as one batch. *vLLM* is *tuned* with
completions that a vLLM in the same process draws.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, build_parser, run_benchmark  # noqa: E402

RESULTS = Path(__file__).with_name("results")
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151_936, "rope_theta": 1e6,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 4096,
    },
}  # fmt: skip
FORMATS = {"cuda": ("bfloat16", "float16"), "cpu": ("float32",)}
WARM_UP_STEPS, MEASURED_STEPS = 2, 3
GENERATIONS, TOKENS = 8, {"cuda": 512, "cpu": 12}
LEAST_SPEEDUP = {"default": 1.8, "tuned": 1.6}
"""How many times as fast as TRL a step has to be."""


def main() -> int:
    """Run the benchmark, or measure one trainer in a worker process; returns the exit status."""
    flags = build_parser(__doc__ or "")
    flags.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    flags.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = flags.parse_args()
    steps = 1 if options.quick else MEASURED_STEPS
    if options.worker:
        way, number_format, folder = options.worker
        print(json.dumps(measure(way, number_format, options.device, steps, Path(folder))))
        return 0
    return run_benchmark("gpu", [lambda: compare(options.device, options.quick)], options.json)


def compare(device: str, quick: bool) -> tuple[list[Goal], dict[str, Any]]:
    """Measure every trainer in every number format."""
    name = device_name(device)
    ways = ["default", "tuned", "ours"]
    if device == "cuda" and importlib.util.find_spec("vllm") is not None:
        ways.append("vllm")
    print(
        f"{name}: G {GENERATIONS}, T {TOKENS[device]}; vLLM is {'' if 'vllm' in ways else 'not '}used"
    )
    goals: list[Goal] = []
    rows = []
    for number_format in FORMATS[device]:
        figures = {way: run_worker(way, number_format, device, quick) for way in ways}
        rows.append({"format": number_format, "trainers": figures})
        for way, row in figures.items():
            print(f"{number_format} {way:<8} {row['step_s']:.2f} s a step, {row['tokens_per_s']:,.0f}"
                  f" tokens/s while sampling, peak {row['peak_mb']:,.0f} MB")  # fmt: skip
        ours = figures["ours"]
        for way, least in LEAST_SPEEDUP.items():
            ratio = ours["step_s"] / figures[way]["step_s"]
            goals.append(Goal(f"{number_format}: ours / {way}", ratio, 1 / least, "×"))
        peak = ours["peak_mb"] / figures["default"]["peak_mb"]
        goals.append(Goal(f"{number_format}: peak memory over default", peak, 1.0, "×"))
    details = {"device": name, "quick": quick, "formats": rows}
    if device != "cpu":
        file = RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
        file.write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        print(f"written to {file.relative_to(ROOT)}")
    return goals, details


def device_name(device: str) -> str:
    """The device's name, with torch's version; ends the benchmark if there is none."""
    import torch

    if device == "cpu":
        return f"cpu, torch {torch.__version__}"
    if not torch.cuda.is_available():
        sys.exit("gpu: torch sees no CUDA GPU; --device cpu runs a tiny model")
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def run_worker(way: str, number_format: str, device: str, quick: bool) -> dict[str, Any]:
    """The figures of one trainer, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ida-tui-gpu-") as folder:
        command = [sys.executable, __file__, "--device", device]
        command += ["--worker", way, number_format, folder, *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"gpu: {way} in {number_format} failed; its error is above")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


# --- one trainer, in a worker process ---------------------------------------------------------------


def measure(way: str, number_format: str, device: str, steps: int, folder: Path) -> dict[str, Any]:
    """Train some steps; returns the mean seconds of a measured one, tokens per second, and peak memory."""
    if way == "ours":
        from ida_tui.engine import libraries

        libraries.set_library_defaults(None)
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    marks: list[float] = []

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == WARM_UP_STEPS:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                sampled.clear()
                marks.append(now(device))

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step > WARM_UP_STEPS:
                marks.append(now(device))

    trainer, sampled = build_trainer(way, number_format, device, WARM_UP_STEPS + steps, folder)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Marks())
    trainer.train()
    tokens = GENERATIONS * TOKENS[device] * len(sampled)
    return {
        "step_s": (marks[-1] - marks[0]) / steps,
        "tokens_per_s": tokens / sum(sampled),
        "peak_mb": peak_mb(device),
    }


def build_trainer(
    way: str, number_format: str, device: str, steps: int, folder: Path
) -> tuple[Any, list[float]]:
    """A trainer, and the list to which the seconds of each rollout's sampling are appended."""
    import peft
    import torch
    from datasets import Dataset
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from ida_tui.config.schema import ModelConfig
    from ida_tui.engine.model.chat_format import ChatFormat
    from ida_tui.engine.model.load import load_tokenizer
    from ida_tui.engine.trainer.fast import FastTrainer

    torch.manual_seed(0)
    embedded = ModelConfig(path="embedded")
    tokenizer = load_tokenizer(embedded)
    shape = SHAPES["Qwen3-4B" if device == "cuda" else "tiny"]
    with torch.device(device):
        model: Any = Qwen3ForCausalLM(
            Qwen3Config(
                **shape, max_position_embeddings=4096, tie_word_embeddings=True,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                dtype=getattr(torch, number_format),
            )
        ).to(getattr(torch, number_format))  # fmt: skip
    if way == "vllm":  # it loads the model from a folder
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        model = str(folder / "model")
    is_tuned = way != "default"
    arguments = GRPOConfig(
        output_dir=str(folder), use_cpu=device == "cpu", report_to="none", save_strategy="no",
        bf16=number_format == "bfloat16", fp16=number_format == "float16", disable_tqdm=True,
        max_steps=steps, num_generations=GENERATIONS, max_completion_length=TOKENS[device],
        per_device_train_batch_size=GENERATIONS, gradient_accumulation_steps=1, logging_steps=1,
        **({"gradient_checkpointing": False} if is_tuned else {}),
        **({"use_vllm": True, "vllm_mode": "colocate"} if way == "vllm" else {}),
    )  # fmt: skip
    row = {"prompt": [{"role": "user", "content": "Count. " * 60}], "prompt_id": "0",
           "prompt_text": "0", "kind": "harmless", "context": [], "columns": "{}"}  # fmt: skip
    shared: dict[str, Any] = {
        "model": model, "args": arguments, "processing_class": tokenizer,
        "train_dataset": Dataset.from_list([row] * steps),
        "peft_config": peft.LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    }  # fmt: skip
    sampled: list[float] = []
    if way == "ours":
        source = PositionRewards()
        shared |= {"recorder": source.recorder(steps), "reward_source": source,
                   "chat_format": ChatFormat(tokenizer, embedded)}  # fmt: skip
        trainer_class: Any = FastTrainer
    else:
        shared["reward_funcs"] = lambda completions, **_: [
            float(n % 3) for n in range(len(completions))
        ]
        trainer_class = GRPOTrainer

    class Timed(trainer_class):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            started = now(device)
            try:
                return super()._generate_single_turn(*args, **kwargs)
            finally:
                sampled.append(now(device) - started)

    return Timed(**shared), sampled


class PositionRewards:
    """Rewards by the position in the group, which need no judge, as `RewardCollector` returns them."""

    def recorder(self, steps: int) -> Any:
        """A recorder whose log goes to standard error."""
        import threading

        from ida_tui.engine.trainer.recorder import StepRecorder
        from ida_tui.events.types import Noticed

        def emit(event: Any) -> None:
            if isinstance(event, Noticed):
                print(event.text, file=sys.stderr)

        return StepRecorder(emit, threading.Event(), steps, ("detail",))

    def begin_step(self, step: int, rows: object) -> None:
        """Called when a rollout starts."""

    def completion_ended(self, row: int, text: str) -> None:
        """Called when a completion is finished."""

    def after_step(self, step: int) -> None:
        """Called when a step is finished."""

    def collect_verdicts(
        self, texts: list[str], group_size: int, token_ids: object = ()
    ) -> tuple[Any, Any]:
        """Verdicts and figures of the step."""
        from dataclasses import replace

        from ida_tui.judge import BatchStats, Verdict

        verdicts = [
            replace(Verdict.scored({"detail": float(n % 3)}, "", "position"), reward=float(n % 3))
            for n in range(len(texts))
        ]
        return verdicts, BatchStats.from_verdicts(verdicts, 0.0, exposed_s=0.0)


def now(device: str) -> float:
    """The time in seconds, once the device has computed everything."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_mb(device: str) -> float:
    """Peak memory in MB: of the device since the warm-up, or of the process since its start."""
    import resource

    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
