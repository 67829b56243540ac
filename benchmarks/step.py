"""Benchmark of one GRPO step with three trainers: TRL with defaults, TRL tuned by hand, and ida-tui.

    uv run python benchmarks/step.py            # about half an hour
    uv run python benchmarks/step.py --quick    # under four minutes
    uv run python benchmarks/step.py --cells S-G8-T256,S152k-G4-T256 --json step.json

Each trainer runs in a separate process, and they take turns case by case, with the same threads, allocator
settings, prompts, completion lengths (lognormal, the longest near T) and judge (8 or 2 slots, 0.5 to 1.5 s
per call). The models have random weights at the named shapes; LoRA r 16; float32 on the CPU. The trainers
are in the bench package, which `ida-tui bench` uses too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import BenchmarkPart, Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.engine.bench import cases as known  # noqa: E402
from ida_tui.engine.bench.cases import PROMPT_TOKENS, SHAPES, BenchCase  # noqa: E402
from ida_tui.engine.bench.compare import PROCESS_ENVIRONMENT, compare_trainers  # noqa: E402


def main() -> int:
    """Run the benchmark; returns the exit status."""
    flags = build_parser(__doc__)
    flags.add_argument(
        "--cells", metavar="NAMES", help="names of the cases to measure, separated by commas"
    )
    options = flags.parse_args()
    cells = known.QUICK_CASES if options.quick else known.ALL_CASES
    if options.cells:
        cells = known.cases_by_name(options.cells)
    repeats = 1 if options.quick else 2
    parts: list[BenchmarkPart] = [lambda: measure_cases(cells, repeats), measure_decoding]
    if not options.quick and not options.cells:
        parts.append(measure_memory_growth)
    return run_benchmark("step", parts, options.json)


def measure_cases(cases: list[BenchCase], repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Measure the three trainers and compare them with the goals."""
    rows = compare_trainers(cases, repeats)
    over_default = [row["default_s"] / row["ours_s"] for row in rows]
    over_tuned = [row["tuned_s"] / row["ours_s"] for row in rows]
    peaks = [row["peak_mb"]["ours"] / row["peak_mb"]["default"] for row in rows]
    wide = [
        p for p, row in zip(peaks, rows, strict=True) if row["cell"]["shape"] in ("S152k", "0.6B")
    ]
    overlapped = [
        row["exposed_share"] for row in rows if row["cell"]["beta"] and row["cell"]["slots"] == 8
    ]
    goals = [
        Goal("ours / default, median", 1 / statistics.median(over_default), 1 / 2.5, "×"),
        Goal("ours / default, worst case", 1 / min(over_default), 1 / 1.8, "×"),
        Goal("ours / tuned, median", 1 / statistics.median(over_tuned), 1 / 1.8, "×"),
        Goal("peak memory over default, worst case", max(peaks), 1.0, "×"),
    ]
    if wide:
        goals.append(Goal("peak memory at vocabulary 151,936", max(wide), 0.5, "×"))
    if overlapped:
        goals.append(
            Goal("share of the judge's time that the trainer waits", max(overlapped), 0.25)
        )
    return goals, {"table": rows}


# --- decoding, and memory over a long run ----------------------------------------------------------


def measure_decoding() -> tuple[list[Goal], dict[str, Any]]:
    """Time of one token for eight rows, relative to the larger of two times, both measured here.

    One is that of reading the weights once, the other that of multiplying as fast as a large product does.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ida_tui.engine.device import device, onednn
    from ida_tui.engine.rollout.generate import generate
    from ida_tui.engine.rollout.sampling import TokenSampler

    device.limit_threads()
    block = torch.ones(64 * 2**20)
    read_seconds = []
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        read_seconds.append(time.perf_counter() - started)
    bandwidth = block.numel() * 4 / min(read_seconds)
    del block
    square = torch.randn(1024, 1024)
    product_seconds = []
    for _ in range(5):
        started = time.perf_counter()
        onednn.linear(square, square, None)
        product_seconds.append(time.perf_counter() - started)
    flops = 2 * 1024**3 / min(product_seconds)
    goals: list[Goal] = []
    figures = {"bandwidth_gb_s": bandwidth / 1e9, "gflop_s": flops / 1e9}
    for shape in ("S", "M"):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(**SHAPES[shape], max_position_embeddings=4096, tie_word_embeddings=True)
        ).eval()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        prompt = list(range(5, 5 + PROMPT_TOKENS))

        def run(tokens: int, model: Any = model, prompt: list[int] = prompt) -> float:
            started = time.perf_counter()
            with torch.no_grad():
                generate(
                    model,
                    [prompt] * 8,
                    TokenSampler(),
                    max_new_tokens=tokens,
                    eos_token_ids=[-1],
                    pad_token_id=0,
                )
            return time.perf_counter() - started

        run(16)
        token_s = min((run(80) - run(16)) / 64 for _ in range(3))
        limit_s = max(weights / bandwidth, 8 * 2 * weights / 4 / flops)
        print(
            f"decode {shape}: {1000 * token_s:.1f} ms per token for 8 rows; at least"
            f" {1000 * limit_s:.1f} ms at {bandwidth / 1e9:.1f} GB/s and {flops / 1e9:.0f} GFLOP/s"
        )
        goals.append(Goal(f"decode {shape} / reading or multiplying", token_s / limit_s, 2.5, "×"))
        figures[f"decode_{shape}_ms"] = 1000 * token_s
    return goals, {"decode": figures}


def measure_memory_growth() -> tuple[list[Goal], dict[str, Any]]:
    """Growth of memory over 200 steps of varied lengths, after the first 20."""
    source = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom benchmarks.step import held\nheld()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", source, str(ROOT)],
        capture_output=True, text=True, env=os.environ | PROCESS_ENVIRONMENT, check=True,
    )  # fmt: skip
    held_mb: list[float] = json.loads(process.stdout.splitlines()[-1])
    first, last = statistics.median(held_mb[15:25]), statistics.median(held_mb[-10:])
    print(f"memory over 200 steps: {first:,.0f} MB after 20, {last:,.0f} MB at the end")
    return [Goal("growth from step 20 to step 200", last / first, 1.05, "×")], {"held_mb": held_mb}


def held() -> None:
    """Train 200 short steps with the fast trainer; print the process memory after each, in MB."""
    import tempfile

    import psutil

    from ida_tui.engine import libraries
    from ida_tui.engine.bench.trainers import build_bench_trainer
    from ida_tui.engine.device import device
    from ida_tui.system import allocator

    libraries.set_library_defaults(None)
    allocator.keep_freed_memory()
    device.limit_threads()
    SHAPES["XS"] = SHAPES["S"] | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
    }
    memory_mb: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer, judge, _ = build_bench_trainer("ours", BenchCase("XS", 4, 64), 200, Path(folder))
        judge._latency = lambda row: 0.0  # type: ignore[method-assign]
        judge.after_step = lambda step: memory_mb.append(psutil.Process().memory_info().rss / 1e6)  # type: ignore[method-assign]
        trainer.train()
    print(json.dumps(memory_mb))


if __name__ == "__main__":
    sys.exit(main())
