"""One GRPO step, three ways: TRL as it comes, TRL tuned by hand, and ours.

    uv run python benchmarks/step.py            # about half an hour
    uv run python benchmarks/step.py --quick    # under four minutes
    uv run python benchmarks/step.py --cells S-G8-T256,S152k-G4-T256 --json step.json

Each way lives in a process of its own and they take turns, cell by cell, with the same threads, the same
allocator settings, the same prompts, completion lengths (lognormal, the longest near T) and judge (8 or 2
slots, 0.5 to 1.5 s a call). Random weights at the shapes named; LoRA r 16; float32 on the CPU.

  default   trl.GRPOTrainer with its own defaults (gradient checkpointing on, batches of 8)
  tuned     the same without checkpointing, the whole step as one batch
  ours      the fast engine
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, Part, measure, parser  # noqa: E402

WAYS = ("default", "tuned", "ours")
PROMPT = 128
SHAPES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
          "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096},
    "M": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8,
          "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 8192},
    "S152k": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
              "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 151_936},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936},
}  # fmt: skip
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


@dataclass(frozen=True)
class Cell:
    """One configuration of the table."""

    shape: str
    generations: int
    longest: int
    beta: float = 0.0
    slots: int = 8
    prompts: int = 1

    @property
    def name(self) -> str:
        """As it is printed and asked for."""
        parts = [self.shape, f"G{self.generations}", f"T{self.longest}"]
        parts += [f"b{self.beta:g}"] if self.beta else []
        parts += [f"j{self.slots}"] if self.slots != 8 else []
        parts += [f"p{self.prompts}"] if self.prompts != 1 else []
        return "-".join(parts)

    def lengths(self, step: int) -> list[int]:
        """Tokens of each completion of a step; one of them in four is as long as it gets."""
        rng = random.Random(f"{self.name} {step}")
        return [
            min(self.longest, max(4, round(rng.lognormvariate(math.log(self.longest / 3), 0.6))))
            for _ in range(self.generations * self.prompts)
        ]


TABLE = [
    Cell("S", 4, 64), Cell("S", 8, 64), Cell("S", 8, 256), Cell("S", 8, 512),
    Cell("S", 8, 256, beta=0.04), Cell("S", 8, 256, beta=0.04, slots=2), Cell("S", 4, 256, prompts=2),
    Cell("M", 8, 64), Cell("M", 8, 256),
    Cell("S152k", 4, 256), Cell("S152k", 8, 64),
    Cell("0.6B", 4, 64),
]  # fmt: skip
QUICK = [Cell("S", 8, 64), Cell("S", 8, 256, beta=0.04), Cell("S152k", 4, 64)]


def main() -> int:
    """Measure everything; returns the exit status."""
    flags = parser(__doc__)
    flags.add_argument("--cells", metavar="NAMES", help="cells to measure, by name, with commas")
    flags.add_argument("--child", metavar="WAY", help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.child:
        return child(options.child)
    cells = QUICK if options.quick else TABLE
    if options.cells:
        known = {cell.name: cell for cell in (*TABLE, *QUICK)}
        cells = [known[name] for name in options.cells.split(",")]
    repeats = 1 if options.quick else 2
    parts: list[Part] = [lambda: table(cells, repeats), decode]
    if not options.quick and not options.cells:
        parts.append(growth)
    return measure("step", parts, options.json)


# --- the table ----------------------------------------------------------------------------------


def table(cells: list[Cell], repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Every cell by every way, taking turns."""
    ways = {way: Way(way) for way in WAYS}
    rows = []
    print(f"{'cell':<20} {'default':>9} {'tuned':>8} {'ours':>8}   {'default/ours':>12} {'tuned/ours':>10}"
          f"   peak MB default → ours   exposed judge")  # fmt: skip
    try:
        for cell in cells:
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, process in ways.items():
                    found[way].append(process.run(cell))
            row = _row(cell, found)
            rows.append(row)
            print(_line(row), flush=True)
    finally:
        for process in ways.values():
            process.close()
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
        Goal("ours / default, worst cell", 1 / min(over_default), 1 / 1.8, "×"),
        Goal("ours / tuned, median", 1 / statistics.median(over_tuned), 1 / 1.8, "×"),
        Goal("peak memory over default, worst cell", max(peaks), 1.0, "×"),
    ]
    if wide:
        goals.append(Goal("peak memory at vocabulary 151,936", max(wide), 0.5, "×"))
    if overlapped:
        goals.append(Goal("judge's time that the trainer waits", max(overlapped), 0.25))
    return goals, {"table": rows}


def _row(cell: Cell, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    best = {way: min(runs, key=lambda run: run["step_s"]) for way, runs in found.items()}
    return {
        "cell": asdict(cell),
        "name": cell.name,
        **{f"{way}_s": best[way]["step_s"] for way in WAYS},
        "phases": {way: best[way]["phases"] for way in WAYS},
        "peak_mb": {way: min(run["peak_mb"] for run in found[way]) for way in WAYS},
        "exposed_share": best["ours"]["exposed_s"] / best["ours"]["judge_s"],
        "runs": found,
    }


def _line(row: dict[str, Any]) -> str:
    default, tuned, ours = row["default_s"], row["tuned_s"], row["ours_s"]
    peak = row["peak_mb"]
    phases = ", ".join(
        f"{phase} {row['phases']['default'].get(phase, 0):.2f} → {seconds:.2f}"
        for phase, seconds in row["phases"]["ours"].items()
        if seconds >= 0.01
    )
    return (
        f"{row['name']:<20} {default:>8.2f}s {tuned:>7.2f}s {ours:>7.2f}s   {default / ours:>11.2f}×"
        f" {tuned / ours:>9.2f}×   {peak['default']:>8,.0f} → {peak['ours']:>6,.0f}"
        f"          {row['exposed_share']:.0%}\n{'':<20} {phases}"
    )


class Way:
    """A process that trains one way, a cell whenever it is told to."""

    def __init__(self, way: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        )

    def run(self, cell: Cell) -> dict[str, Any]:
        """The figures of one cell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(cell)), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError("the process ended")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


# --- in a process of its own --------------------------------------------------------------------


class SlowJudge:
    """Stands in for `Judging`: a pool of threads, 0.5 to 1.5 s a completion, the same for every way."""

    def __init__(self, cell: Cell, *, early: bool) -> None:
        self._cell, self._early = cell, early
        self._pool = ThreadPoolExecutor(cell.slots)
        self._asked: dict[int, Future[float]] = {}
        self.judge_s: list[float] = []
        self.exposed_s: list[float] = []

    def begin(self, step: int, rows: Any) -> None:
        """A rollout starts."""
        self._step, self._asked = step, {}

    def ended(self, row: int, text: str) -> None:
        """A completion is finished; TRL's users hear of it only when all are."""
        if self._early:
            self._asked[row] = self._pool.submit(self._judge, row)

    def rewards(self, rows: int) -> list[float]:
        """Every reward of the step."""
        started = time.perf_counter()
        for row in range(rows):
            if row not in self._asked:
                self._asked[row] = self._pool.submit(self._judge, row)
        found = [self._asked[row].result() for row in range(rows)]
        self.exposed_s.append(time.perf_counter() - started)
        # What judging alone takes with these slots.
        latencies = [self._latency(row) for row in range(rows)]
        free = [0.0] * self._cell.slots
        for latency in latencies:
            soonest = min(range(len(free)), key=free.__getitem__)
            free[soonest] += latency
        self.judge_s.append(max(free))
        return found

    def verdicts(self, texts: list[str], group_size: int) -> Any:
        """As `Judging` gives them."""
        from ida_tui.judge import BatchStats, Verdict

        verdicts = [Verdict.scored(reward, 8, 6, "", "slow") for reward in self.rewards(len(texts))]
        return verdicts, BatchStats.of(verdicts, self.judge_s[-1], exposed_s=self.exposed_s[-1])

    def after_step(self, step: int) -> None:
        """A step is finished."""

    def _latency(self, row: int) -> float:
        return random.Random(f"{self._cell.name} {self._step} {row}").uniform(0.5, 1.5)

    def _judge(self, row: int) -> float:
        time.sleep(self._latency(row))
        return random.Random(f"{self._step} {row}").uniform(1, 9)


def child(way: str) -> int:
    """Read cells from standard input, write figures to standard output."""
    import warnings

    warnings.simplefilter("ignore")
    from ida_tui import allocator
    from ida_tui.engine import device, environment

    environment.prepare(None)
    allocator.keep_freed_memory()
    device.leave_a_core()
    for line in sys.stdin:
        print(json.dumps(run_cell(way, Cell(**json.loads(line)))), flush=True)
        gc.collect()
    return 0


def run_cell(way: str, cell: Cell) -> dict[str, Any]:
    """A warm-up step and one that counts; the wait for the judge, which varies more, is ours over four."""
    import tempfile

    steps = 5 if way == "ours" and cell.beta else 2
    trainer, judge, seconds = build(way, cell, steps, Path(tempfile.mkdtemp()))
    base = _reset_peak()
    trainer.train()
    return {
        "step_s": sum(seconds[1].values()),
        "phases": seconds[1],
        "peak_mb": _peak_mb() - base,
        "judge_s": sum(judge.judge_s[1:]),
        "exposed_s": sum(judge.exposed_s[1:]),
    }


def build(
    way: str, cell: Cell, steps: int, folder: Path
) -> tuple[Any, SlowJudge, list[dict[str, float]]]:
    """The trainer of one way, its judge, and the list that its steps' seconds go to."""
    import threading

    import peft
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import GRPOConfig

    from ida_tui import embedded

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(embedded.path(), padding_side="left")
    eos = tokenizer.eos_token_id
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **SHAPES[cell.shape], max_position_embeddings=4096, tie_word_embeddings=True,
            eos_token_id=eos, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    rows = cell.generations * cell.prompts
    batch = {"default": min(8, rows), "tuned": rows, "ours": rows}[way]
    arguments = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, max_steps=steps, num_generations=cell.generations,
        per_device_train_batch_size=batch, gradient_accumulation_steps=rows // batch,
        max_completion_length=cell.longest, beta=cell.beta, learning_rate=1e-5, top_k=0,
        **({} if way == "default" else {"gradient_checkpointing": False}),
    )  # fmt: skip
    words = [f"number {n} and then" for n in range(PROMPT)]
    prompts = [
        {"prompt": [{"role": "user", "content": " ".join(words)[: 3 * PROMPT] + f" {p}"}],
         "prompt_id": str(p), "prompt_text": str(p), "kind": "harmless"}
        for p in range(cell.prompts)
    ]  # fmt: skip
    judge = SlowJudge(cell, early=way == "ours")
    seconds: list[dict[str, float]] = []
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    shared: dict[str, Any] = {
        "model": model, "args": arguments, "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(prompts), "peft_config": lora,
    }  # fmt: skip
    if way == "ours":
        from ida_tui.engine.watcher import Watcher
        from ida_tui.events import StepFinished

        def emit(event: Any) -> None:
            if isinstance(event, StepFinished):
                seconds.append(dict(event.seconds))

        trainer = _ours(cell, eos)(
            watcher=Watcher(emit, threading.Event(), steps), judging=judge, **shared
        )
    else:
        trainer = _trls(cell, eos, judge, seconds)(
            reward_funcs=lambda completions, **_: judge.rewards(len(completions)), **shared
        )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer, judge, seconds


def _ours(cell: Cell, eos: int) -> Any:
    """Our trainer, with completions of the lengths of the cell."""
    import torch

    from ida_tui.engine import fast
    from ida_tui.engine.sampling import Sampling

    class Forced(Sampling):
        def begin(self, step: int) -> Forced:
            object.__setattr__(self, "_left", cell.lengths(step))
            return self

        def draw(self, logits: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
            left = [n - 1 for n in self._left]  # type: ignore[attr-defined]
            logits = logits.clone()
            logits[:, eos] = -torch.inf
            tokens = super().draw(logits, seen)
            tokens[[place for place, n in enumerate(left) if n == 0]] = eos
            object.__setattr__(self, "_left", [n for n in left if n > 0])
            return tokens

    class Ours(fast.FastTrainer):
        def _sample(self, *arguments: Any, **more: Any) -> Any:
            kept, fast.Sampling = fast.Sampling, lambda **s: Forced(**s).begin(self._current_step)  # type: ignore[misc,assignment]
            try:
                return super()._sample(*arguments, **more)
            finally:
                fast.Sampling = kept  # type: ignore[misc]

    return Ours


def _trls(cell: Cell, eos: int, judge: SlowJudge, seconds: list[dict[str, float]]) -> Any:
    """TRL's own trainer with a stopwatch, and completions of the lengths of the cell."""
    from functools import partial

    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    from trl import GRPOTrainer

    class Force(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, lengths: list[int]) -> None:
            self._lengths, self._at = lengths, 0

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self._at += 1
            scores[:, eos] = -torch.inf
            now = [row for row, length in enumerate(self._lengths) if length == self._at]
            scores[now] = -torch.inf
            scores[now, eos] = 0.0
            return scores

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _clock(self, phase: str, call: Any) -> Any:
            started = time.perf_counter()
            try:
                return call()
            finally:
                spent = self.__dict__.setdefault("_spent", {})
                spent[phase] = spent.get(phase, 0.0) + time.perf_counter() - started

        def _generate_single_turn(self, *arguments: Any, **more: Any) -> Any:
            step = self.state.global_step + 1
            judge.begin(step, None)
            base = self.accelerator.unwrap_model(self.model_wrapped)
            force = LogitsProcessorList([Force(cell.lengths(step))])
            base.generate = partial(base.generate, logits_processor=force)
            try:
                return self._clock(
                    "generate", lambda: GRPOTrainer._generate_single_turn(self, *arguments, **more)
                )
            finally:
                del base.generate

        def _calculate_rewards(self, *arguments: Any, **more: Any) -> Any:
            return self._clock(
                "judge", lambda: GRPOTrainer._calculate_rewards(self, *arguments, **more)
            )

        def _get_per_token_logps_and_entropies(self, *arguments: Any, **more: Any) -> Any:
            call = partial(GRPOTrainer._get_per_token_logps_and_entropies, self, *arguments, **more)
            return call() if torch.is_grad_enabled() else self._clock("reference", call)

        def training_step(self, *arguments: Any, **more: Any) -> Any:
            before = dict(self.__dict__.get("_spent", {}))
            started = time.perf_counter()
            loss = GRPOTrainer.training_step(self, *arguments, **more)
            inside = sum(self.__dict__["_spent"].values()) - sum(before.values())
            spent = self.__dict__["_spent"]
            spent["update"] = spent.get("update", 0.0) + time.perf_counter() - started - inside
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                seconds.append(self.__dict__.pop("_spent"))

    return Timed


def _reset_peak() -> float:
    """Forget the process's peak of memory; returns what it holds now, in MB."""
    from ida_tui import allocator

    gc.collect()
    allocator.give_back()
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- decoding, and memory over a long run ----------------------------------------------------------


def decode() -> tuple[list[Goal], dict[str, Any]]:
    """Time of one token for eight rows, over the time that reading the weights takes."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ida_tui.engine import device
    from ida_tui.engine.rollout import sample
    from ida_tui.engine.sampling import Sampling

    device.leave_a_core()
    big = torch.ones(64 * 2**20)
    reads = []
    for _ in range(5):
        started = time.perf_counter()
        big.sum()
        reads.append(time.perf_counter() - started)
    bandwidth = big.numel() * 4 / min(reads)
    goals, figures = [], {"bandwidth_gb_s": bandwidth / 1e9}
    for shape in ("S", "M"):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(**SHAPES[shape], max_position_embeddings=4096, tie_word_embeddings=True)
        ).eval()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        prompt = list(range(5, 5 + PROMPT))

        def run(tokens: int, model: Any = model, prompt: list[int] = prompt) -> float:
            started = time.perf_counter()
            with torch.no_grad():
                sample(model, [prompt] * 8, Sampling(), max_new_tokens=tokens, eos=[-1], pad=0)
            return time.perf_counter() - started

        run(8)
        token = min((run(72) - run(8)) / 64 for _ in range(3))
        roof = weights / bandwidth
        print(
            f"decode {shape}: {1000 * token:.1f} ms a token for 8 rows, weights are read in"
            f" {1000 * roof:.1f} ms at {bandwidth / 1e9:.1f} GB/s"
        )
        goals.append(Goal(f"decode {shape} / reading the weights", token / roof, 3.5, "×"))
        figures[f"decode_{shape}_ms"] = 1000 * token
    return goals, {"decode": figures}


def growth() -> tuple[list[Goal], dict[str, Any]]:
    """Memory of 200 steps of varied lengths, after the first 20."""
    source = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom benchmarks.step import held\nheld()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(ROOT)],
        capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=True,
    )  # fmt: skip
    held_mb: list[float] = json.loads(done.stdout.splitlines()[-1])
    first, last = statistics.median(held_mb[15:25]), statistics.median(held_mb[-10:])
    print(f"memory over 200 steps: {first:,.0f} MB after 20, {last:,.0f} MB at the end")
    return [Goal("growth from step 20 to step 200", last / first, 1.05, "×")], {"held_mb": held_mb}


def held() -> None:
    """Train 200 short steps of our own way; print what the process holds after each."""
    import tempfile

    import psutil

    from ida_tui import allocator
    from ida_tui.engine import device, environment

    environment.prepare(None)
    allocator.keep_freed_memory()
    device.leave_a_core()
    SHAPES["XS"] = SHAPES["S"] | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
    }
    trainer, judge, _ = build("ours", Cell("XS", 4, 64), 200, Path(tempfile.mkdtemp()))
    judge._latency = lambda row: 0.0  # type: ignore[method-assign]
    found: list[float] = []
    judge.after_step = lambda step: found.append(psutil.Process().memory_info().rss / 1e6)  # type: ignore[method-assign]
    trainer.train()
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
