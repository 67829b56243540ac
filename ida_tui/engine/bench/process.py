"""Process of the step benchmark that measures one trainer.

  python -m ida_tui.engine.bench.process default|tuned|ours cpu|mps|cuda as-it-comes|equal

reads cases from standard input and prints their figures. As it comes, a trainer of TRL runs as in a plain
script: torch chooses its own threads, and the allocator and the libraries keep their defaults. Ours is set
up as a run of the program is. Equal means that all have our settings, and OMP_NUM_THREADS threads.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from ida_tui.engine.bench.cases import BenchCase
from ida_tui.engine.bench.trainers import build_bench_trainer

Setting = Literal["as-it-comes", "equal"]


def serve(trainer_name: str, device: str, setting: Setting) -> int:
    """Read cases from standard input, train them, and write their figures to standard output.

    Each line is an object with `case`, `steps` (those that are measured) and `folder` (of the real weights,
    or null).
    """
    import warnings

    warnings.simplefilter("ignore")
    reason = ""
    if trainer_name == "ours" or setting == "equal":
        reason = _set_up_as_the_program(device)
    for line in sys.stdin:
        request = json.loads(line)
        case = BenchCase(**request["case"])
        figures = measure_case(trainer_name, case, request["steps"], request["folder"], device)
        print(json.dumps({**figures, "reason": reason}), flush=True)
        gc.collect()
    return 0


def _set_up_as_the_program(device: str) -> str:
    """Set up libraries, allocator and threads as a run does; returns why it has so many threads."""
    from ida_tui.engine import libraries
    from ida_tui.system import allocator

    libraries.set_library_defaults(None)
    if device == "cpu":
        allocator.keep_freed_memory()
    from ida_tui.engine.device.threads import choose_threads

    choice = choose_threads(with_screen=False, device=device)
    choice.apply()
    return choice.text


def measure_case(
    trainer_name: str,
    case: BenchCase,
    steps: Sequence[int],
    model_folder: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train one case; returns its figures.

    Args:
        trainer_name: `default`, `tuned` or `ours`.
        case: the case.
        steps: the steps that are measured, from 3. TRL's trainers are warmed up by step 1, ours by 1 and 2,
            in which it checks its log-probabilities.
        model_folder: folder of the real weights; None for random weights.
        device: the device to train on.
    """
    import torch

    from ida_tui.engine.trainer.fast import CHECK_INTERVAL

    warm_up = [1, 2] if trainer_name == "ours" else [1]
    with tempfile.TemporaryDirectory() as folder:
        bench = build_bench_trainer(
            trainer_name, case, [*warm_up, *steps], Path(folder), model_folder, device
        )
        base = _reset_peak(device)
        with _frozen_gc(trainer_name):
            bench.trainer.train()
        peak = _peak_mb(device)
    count, ends, judge = len(steps), bench.clock.ends, bench.judge
    phases = bench.phases[-count:]
    return {
        "step_s": (ends[-1] - ends[-1 - count]) / count,
        "check_s": bench.check_s[-1] if bench.check_s else 0.0,
        "check_steps": CHECK_INTERVAL,
        "phases": {name: fmean(p.get(name, 0.0) for p in phases) for name in phases[0]},
        "peak_mb": None if base is None or peak is None else peak - base,
        "judge_s": sum(judge.judge_s[-count:]),
        "exposed_s": sum(judge.exposed_s[-count:]),
        "threads": torch.get_num_threads(),
        "notes": bench.notes,
    }


def _frozen_gc(trainer_name: str) -> contextlib.AbstractContextManager[None]:
    """What a run of the program does with the garbage collector; nothing for TRL's trainers."""
    if trainer_name != "ours":
        return contextlib.nullcontext()
    from ida_tui.engine.libraries import frozen_gc

    return frozen_gc()


def _reset_peak(device: str) -> float | None:
    """Reset the peak memory; returns the memory held now in MB, or None if it cannot be measured."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform.startswith("linux"):
        from ida_tui.system import allocator

        allocator.release_free_memory()
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb(device)


def _peak_mb(device: str) -> float | None:
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
    sys.exit(serve(*sys.argv[1:]))  # type: ignore[arg-type]
