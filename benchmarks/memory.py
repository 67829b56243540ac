"""The memory plan beside the memory that runs take: real headless runs of random weights at real shapes.

    uv run python benchmarks/memory.py            # about a quarter of an hour
    uv run python benchmarks/memory.py --quick    # under four minutes
    uv run python benchmarks/memory.py --cases M-lora-G8-T256,S-full-G4-T64 --json memory.json

Every case is one `ida-tui --run` of two steps in a process of its own, with the embedded tokenizer and the
offline judge. Random weights never end an answer, so that every row is as long as it may be: what the plan
counts with. Measured is the most that the process held of its own, and the libraries' pages; the pages of the
weights' file while it is read are not among them, for the system takes those back. Planned is
`ida_tui.planning.memory`, before anything is loaded. The last line also says what the gauge itself costs.
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

from benchmarks.goals import Goal, measure, parser  # noqa: E402
from ida_tui.engine.bench.cases import SHAPES  # noqa: E402


@dataclass(frozen=True)
class Case:
    """One run."""

    shape: str
    method: str
    generations: int
    longest: int
    dtype: str = "float32"
    checkpointing: bool = False
    beta: float = 0.0
    batch: int = 0
    """Rows of a micro-batch; 0 is the whole group."""

    @property
    def name(self) -> str:
        """As it is printed and asked for."""
        parts = [self.shape, self.method, f"G{self.generations}", f"T{self.longest}"]
        parts += ["bf16"] if self.dtype == "bfloat16" else []
        parts += ["recompute"] if self.checkpointing else []
        parts += [f"b{self.beta:g}"] if self.beta else []
        parts += [f"m{self.batch}"] if self.batch else []
        return "-".join(parts)


CASES = [
    Case("S", "lora", 4, 64),
    Case("S", "lora", 8, 256),
    Case("S", "lora", 8, 512, checkpointing=True),
    Case("S152k", "lora", 4, 256),
    Case("S152k", "full", 4, 64),
    Case("M", "lora", 8, 256),
    Case("M", "full", 4, 64, beta=0.04),
    Case("M", "lora", 8, 256, dtype="bfloat16"),
    Case("M", "lora", 8, 256, batch=2),
    Case("0.6B", "lora", 4, 64),
    Case("0.6B", "lora", 4, 64, dtype="bfloat16", checkpointing=True),
    Case("0.6B", "full", 4, 64, checkpointing=True),
]
QUICK = [CASES[1], CASES[2], CASES[4], CASES[6], CASES[7]]

CHILD = """
import json, sys, threading
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
code = main(sys.argv[1:])
leave.set()
peak += held("RssFile")
print(json.dumps({"code": code, "peak": peak}))
"""


def main() -> int:
    """Measure everything; returns the exit status."""
    flags = parser(__doc__)
    flags.add_argument("--cases", metavar="NAMES", help="cases to measure, by name, with commas")
    options = flags.parse_args()
    cases = QUICK if options.quick else CASES
    if options.cases:
        known = {case.name: case for case in CASES}
        cases = [known[name] for name in options.cases.split(",")]
    return measure("memory", [lambda: table(cases), sampling], options.json)


def sampling() -> tuple[list[Goal], dict[str, Any]]:
    """What the gauge itself costs: processor time of a sample, times how many there are in a second."""
    from ida_tui.engine.device.memory_monitor import INTERVAL_S
    from ida_tui.system.memory import MemorySensor

    sensor, samples = MemorySensor(), 200
    sensor.sample()
    started = time.thread_time()
    for _ in range(samples):
        sensor.sample()
    each = (time.thread_time() - started) / samples
    share = each / INTERVAL_S
    print(f"a sample takes {each * 1e3:.2f} ms of a core, {1 / INTERVAL_S:g} a second: {share:.2%}")
    return [Goal("memory gauge, share of a core", share, 0.005)], {"sample_s": each}


def table(cases: list[Case]) -> tuple[list[Goal], dict[str, Any]]:
    """Every case, planned and measured."""
    print(f"{'case':<36} {'planned':>9} {'measured':>9} {'off by':>8}")
    rows = []
    for case in cases:
        folder = random_model(case.shape, Path.cwd() / "models" / case.shape)
        planned, parts = plan_of(case, folder)
        measured = peak_of(case, folder)
        off = planned / measured - 1
        rows.append(
            {
                "case": case.name,
                "planned": planned,
                "measured": measured,
                "off": off,
                "parts": parts,
            }
        )
        print(f"{case.name:<36} {planned / 1e9:>6.2f} GB {measured / 1e9:>6.2f} GB {off:>+8.1%}")
        print(
            "  " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items()), flush=True
        )
    worst = max(abs(row["off"]) for row in rows)
    return [Goal("plan off the measured peak, worst case", worst, 0.15)], {"memory": rows}


def overrides(case: Case, folder: Path) -> list[str]:
    """The profile of a case, on top of quickstart."""
    batch = case.batch or case.generations
    return [
        "quickstart", f"model={folder}", f"model.torch_dtype={case.dtype}", "device=cpu",
        "training.max_steps=2", f"training.num_generations={case.generations}",
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={case.generations // batch}",
        f"training.max_completion_length={case.longest}", f"training.beta={case.beta}",
        f"training.method={case.method}", "evaluation.enabled=false", "training.learning_rate=1e-6",
        f"training.gradient_checkpointing={str(case.checkpointing).lower()}", "lora.r=16",
    ]  # fmt: skip


def plan_of(case: Case, folder: Path) -> tuple[float, dict[str, float]]:
    """What is planned, in bytes: at once, and part by part."""
    from ida_tui.config.resolve import resolve
    from ida_tui.planning.memory import plan

    profile, *rest = overrides(case, folder)
    found = plan(resolve(profile, rest).config, "cpu")
    assert found is not None
    return found.total, {part.name: part.size for part in found.parts}


def peak_of(case: Case, folder: Path) -> float:
    """The most that the process of the run held, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "--run", *overrides(case, folder)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    if not last.startswith("{") or json.loads(last)["code"] != 0:
        raise RuntimeError(f"{case.name}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return float(json.loads(last)["peak"])


def random_model(shape: str, folder: Path) -> Path:
    """A model of this shape with random weights, and the embedded tokenizer; made once."""
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.path())
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
