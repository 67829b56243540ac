"""Do several processes train what one trains?

    uv run python benchmarks/processes.py            # the whole quickstart twice: about two minutes
    uv run python benchmarks/processes.py --quick    # ten steps of it
    uv run python benchmarks/processes.py --json processes.json

A quickstart by two processes under torchrun (gloo, the CPU, a thread each) and by one: how many completions
differ, and how far the final adapters are apart (L2, relative). The last line has the figures against their
goals; the exit status is 1 if one is missed.
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

from benchmarks.goals import Goal, measure, parser

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ida_tui")


def main() -> int:
    """Measure everything; returns the exit status."""
    options = parser(__doc__).parse_args()
    short = ("training.max_steps=10", "evaluation.enabled=false") if options.quick else ()
    return measure("processes", [lambda: against_one(short)], options.json)


def against_one(more: tuple[str, ...]) -> tuple[list[Goal], dict[str, Any]]:
    """Two processes and one, one after the other."""
    for folder, command in (("two", TWO), ("one", ("-m", "ida_tui"))):
        subprocess.run(
            [sys.executable, *command, "run", "quickstart", *more, f"output_dir={folder}"],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    texts = [_texts(folder) for folder in ("two", "one")]
    differ = sum(texts[0].get(row) != text for row, text in texts[1].items())
    two, one = (
        load_file(f"{folder}/quickstart/latest/adapter/adapter_model.safetensors")
        for folder in ("two", "one")
    )
    apart = sum(float((two[k] - one[k]).double().square().sum()) for k in one) ** 0.5
    size = sum(float(one[k].double().square().sum()) for k in one) ** 0.5
    print(f"{len(texts[1]) - differ:,} of {len(texts[1]):,} completions are the same")
    return [
        Goal("completions that differ", differ, 0),
        Goal("distance of the adapters", apart / size, 1e-4),
    ], {"completions": len(texts[1])}


def _texts(folder: str) -> dict[tuple[int, int, int], str]:
    with open(f"{folder}/quickstart/latest/completions.jsonl", encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return {(row["step"], row["group"], row["index"]): row["text"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
