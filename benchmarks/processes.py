"""Benchmark of distributed training: two processes must train the same adapter as one.

    uv run python benchmarks/processes.py            # two full quickstarts, about two minutes
    uv run python benchmarks/processes.py --quick    # ten steps each
    uv run python benchmarks/processes.py --json processes.json

A quickstart is trained by two processes under torchrun (gloo, CPU, one thread each) and by one process. The
figures are the number of completions that differ and the relative L2 distance of the final adapters. The last
line compares them with their goals; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.goals import Goal, build_parser, run_benchmark

TWO_PROCESSES = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "-m",
    "ida_tui",
)


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = build_parser(__doc__).parse_args()
    overrides = ("training.max_steps=10", "evaluation.enabled=false") if options.quick else ()
    return run_benchmark("processes", [lambda: compare_with_one_process(overrides)], options.json)


def compare_with_one_process(overrides: tuple[str, ...]) -> tuple[list[Goal], dict[str, Any]]:
    """Train with two processes, then with one, and compare the results."""
    for folder, command in (("two", TWO_PROCESSES), ("one", ("-m", "ida_tui"))):
        subprocess.run(
            [sys.executable, *command, "run", "quickstart", *overrides, f"output_dir={folder}"],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    texts = [_texts(folder) for folder in ("two", "one")]
    differing = sum(texts[0].get(row) != text for row, text in texts[1].items())
    two, one = (
        load_file(f"{folder}/quickstart/latest/adapter/adapter_model.safetensors")
        for folder in ("two", "one")
    )
    distance = sum(float((two[k] - one[k]).double().square().sum()) for k in one) ** 0.5
    norm = sum(float(one[k].double().square().sum()) for k in one) ** 0.5
    print(f"{len(texts[1]) - differing:,} of {len(texts[1]):,} completions are identical")
    return [
        Goal("completions that differ", differing, 0),
        Goal("distance of the adapters", distance / norm, 1e-4),
    ], {"completions": len(texts[1])}


def _texts(folder: str) -> dict[tuple[int, int, int], str]:
    with open(f"{folder}/quickstart/latest/completions.jsonl", encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return {(row["step"], row["group"], row["index"]): row["text"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
