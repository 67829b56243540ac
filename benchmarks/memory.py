"""Benchmark of the memory plan: planned against measured memory of real runs with random weights.

    uv run python benchmarks/memory.py            # about a quarter of an hour
    uv run python benchmarks/memory.py --quick    # under four minutes
    uv run python benchmarks/memory.py --cases M-lora-G8-T256,S-full-G4-T64 --json memory.json

Every case is one `ida-tui --run` of two steps in a separate process, with the embedded tokenizer and the
offline judge. Random weights never end an answer, so every completion has the maximum length, as the plan
assumes. The measured value is the peak of the process's anonymous memory plus the pages of its libraries; it
excludes the pages of the weights' file, which the system can reclaim. The planned value is computed by
`ida_tui.planning.memory` before anything is loaded. The last line also reports the cost of the monitor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.engine.bench.cases import SHAPES  # noqa: E402
from ida_tui.planning.memory_terms import AttentionMethod  # noqa: E402


@dataclass(frozen=True)
class MemoryCase:
    """One measured run."""

    shape: str
    method: str
    generations: int
    max_completion_length: int
    dtype: str = "float32"
    checkpointing: bool = False
    beta: float = 0.0
    batch: int = 0
    """Rows of a micro-batch; 0 for the full group."""
    attention: AttentionMethod = "fused"
    """How attention with gradients is computed; `math` is forced, because only Metal uses it by itself."""
    evaluated_tokens: int = 0
    """Tokens per answer of an evaluation of 30 prompts × 2 samples in one batch; 0 for no evaluation."""
    quantization: str = "none"

    @property
    def name(self) -> str:
        """Name of the case, as printed and as given on the command line."""
        parts = [self.shape, self.method, f"G{self.generations}", f"T{self.max_completion_length}"]
        parts += ["bf16"] if self.dtype == "bfloat16" else []
        parts += [self.quantization] if self.quantization != "none" else []
        parts += ["recompute"] if self.checkpointing else []
        parts += [f"b{self.beta:g}"] if self.beta else []
        parts += [f"m{self.batch}"] if self.batch else []
        parts += [self.attention] if self.attention != "fused" else []
        parts += [f"eval{self.evaluated_tokens}"] if self.evaluated_tokens else []
        return "-".join(parts)


CASES = [
    MemoryCase("S", "lora", 4, 64),
    MemoryCase("S", "lora", 8, 256),
    MemoryCase("S", "lora", 8, 512, checkpointing=True),
    MemoryCase("S152k", "lora", 4, 256),
    MemoryCase("S152k", "full", 4, 64),
    MemoryCase("M", "lora", 8, 256),
    MemoryCase("M", "full", 4, 64, beta=0.04),
    MemoryCase("M", "lora", 8, 256, dtype="bfloat16"),
    MemoryCase("M", "lora", 8, 256, batch=2),
    MemoryCase("S", "lora", 8, 512, attention="math"),
    MemoryCase("S", "lora", 8, 512, attention="eager"),
    MemoryCase("S152k", "lora", 4, 64, evaluated_tokens=128),
    MemoryCase("0.6B", "lora", 4, 64),
    MemoryCase("0.6B", "lora", 4, 64, dtype="bfloat16", checkpointing=True),
    MemoryCase("0.6B", "full", 4, 64, checkpointing=True),
    MemoryCase("M", "lora", 8, 256, batch=2, quantization="nf4"),
    MemoryCase("M", "lora", 8, 256, batch=2, quantization="int8"),
    MemoryCase("0.6B", "lora", 4, 64, quantization="nf4"),
    MemoryCase("0.6B", "lora", 4, 64, dtype="bfloat16", checkpointing=True, quantization="nf4"),
]
QUICK = [CASES[n] for n in (1, 2, 4, 6, 7, 9, 11)]

CHILD_SCRIPT = """
import json, os, sys, threading
from pathlib import Path
from ida_tui.cli.main import main

def held(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) * 1024

peak, leave = 0, threading.Event()

def watch():
    global peak
    while not leave.wait(0.01):
        peak = max(peak, held("RssAnon"))

threading.Thread(target=watch, daemon=True).start()
if os.environ.get("MATH_ATTENTION"):
    import torch
    torch.backends.cuda.enable_flash_sdp(False)  # also on the CPU
code = main(sys.argv[1:])
leave.set()
peak += held("RssFile")
print(json.dumps({"code": code, "peak": peak}))
"""


def main() -> int:
    """Run the benchmark; returns the exit status."""
    flags = build_parser(__doc__)
    flags.add_argument(
        "--cases", metavar="NAMES", help="names of the cases to measure, separated by commas"
    )
    options = flags.parse_args()
    cases = QUICK if options.quick else CASES
    if options.cases:
        known = {case.name: case for case in CASES}
        cases = [known[name] for name in options.cases.split(",")]
    return run_benchmark("memory", [lambda: measure_cases(cases), measure_monitor], options.json)


def measure_monitor() -> tuple[list[Goal], dict[str, Any]]:
    """Cost of the memory monitor: processor time of a sample, times the samples per second."""
    from ida_tui.engine.device.memory_monitor import SAMPLE_INTERVAL_S
    from ida_tui.system.memory import MemorySensor

    sensor, samples = MemorySensor(), 200
    sensor.sample()
    started = time.thread_time()
    for _ in range(samples):
        sensor.sample()
    sample_s = (time.thread_time() - started) / samples
    share = sample_s / SAMPLE_INTERVAL_S
    print(
        f"memory monitor: {sample_s * 1e3:.2f} ms per sample, {1 / SAMPLE_INTERVAL_S:g} per second:"
        f" {share:.2%} of a core"
    )
    return [Goal("memory monitor, share of a core", share, 0.005)], {"sample_s": sample_s}


def measure_cases(cases: list[MemoryCase]) -> tuple[list[Goal], dict[str, Any]]:
    """Plan and measure every case."""
    print(f"{'case':<36} {'planned':>9} {'measured':>9} {'off by':>8}")
    rows = []
    for case in cases:
        folder = random_model(case.shape, Path.cwd() / "models" / case.shape)
        planned, parts = planned_memory(case, folder)
        measured = measured_peak(case, folder)
        error = planned / measured - 1
        rows.append(
            {
                "case": case.name,
                "planned": planned,
                "measured": measured,
                "off": error,
                "parts": parts,
            }
        )
        print(f"{case.name:<36} {planned / 1e9:>6.2f} GB {measured / 1e9:>6.2f} GB {error:>+8.1%}")
        print(
            "  " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items()), flush=True
        )
    worst = max(abs(row["off"]) for row in rows)
    return [Goal("plan off the measured peak, worst case", worst, 0.15)], {"memory": rows}


def overrides(case: MemoryCase, folder: Path) -> list[str]:
    """Arguments of a case: the profile quickstart and its overrides."""
    batch = case.batch or case.generations
    return [
        "quickstart", f"model={folder}", f"model.torch_dtype={case.dtype}", "device=cpu",
        "training.max_steps=2", f"training.num_generations={case.generations}",
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={case.generations // batch}",
        f"training.max_completion_length={case.max_completion_length}", f"training.beta={case.beta}",
        f"training.method={case.method}", f"model.quantization={case.quantization}",
        "training.learning_rate=1e-6",
        f"evaluation.enabled={str(bool(case.evaluated_tokens)).lower()}", "evaluation.samples=2",
        f"evaluation.max_completion_length={case.evaluated_tokens or 'null'}",
        f"model.attn_implementation={'eager' if case.attention == 'eager' else 'sdpa'}",
        f"training.gradient_checkpointing={str(case.checkpointing).lower()}", "lora.r=16",
    ]  # fmt: skip


def planned_memory(case: MemoryCase, folder: Path) -> tuple[float, dict[str, float]]:
    """Planned memory of a case, in bytes: the peak, and the size of each part."""
    from ida_tui.config.resolve import resolve
    from ida_tui.planning.memory import plan

    profile, *changes = overrides(case, folder)
    planned = plan(resolve(profile, changes).config, "cpu", attention=case.attention)
    assert planned is not None
    return planned.peak_bytes, {f"{part.name} ({part.phase})": part.size for part in planned.items}


def measured_peak(case: MemoryCase, folder: Path) -> float:
    """Measured peak memory of a case's process, in bytes."""
    process = subprocess.run(
        [sys.executable, "-c", CHILD_SCRIPT, "--run", *overrides(case, folder)],
        capture_output=True, text=True, check=False,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "MATH_ATTENTION": "1" * (case.attention == "math")},
    )  # fmt: skip
    last_line = process.stdout.splitlines()[-1] if process.stdout else ""
    if not last_line.startswith("{") or json.loads(last_line)["code"] != 0:
        raise RuntimeError(f"{case.name}: {process.stdout[-500:]}{process.stderr[-500:]}")
    return float(json.loads(last_line)["peak"])


def random_model(shape: str, folder: Path) -> Path:
    """Save a model of this shape with random weights and the embedded tokenizer, unless the folder exists."""
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **SHAPES[shape], max_position_embeddings=4096, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
