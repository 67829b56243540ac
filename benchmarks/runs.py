"""Benchmark of the run store: listing 5,000 runs, and opening a run of 100,000 steps.

    uv run python benchmarks/runs.py            # about four minutes
    uv run python benchmarks/runs.py --quick    # under four minutes
    uv run python benchmarks/runs.py --json runs.json

Full processes are timed; `ida-tui runs` and `ida-tui --version` take turns. Memory is the growth of a process
from opening a run of 10 steps to opening a longer one; for `attach --lines` it is the difference of the peaks
of two processes. The last line compares the figures with their goals; the exit status is 1 if a goal is
missed. The benchmark needs 2 GB of disk temporarily.
"""

from __future__ import annotations

import argparse
import gc
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

RUNS, STEPS = 5_000, 200
TINY, SHORT, LONG = 10, 10_000, 100_000
"""Steps of the synthetic runs that are opened."""
COMMAND = (sys.executable, "-m", "ida_tui")


def main() -> int:
    """Run the benchmark; returns the exit status."""
    flags = build_parser(__doc__)
    flags.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.child:
        what, path = options.child
        print(json.dumps(CHILDREN[what](Path(path))))
        return 0
    parts: list[BenchmarkPart] = [
        lambda: measure_listing(9 if options.quick else 31),
        measure_opening,
    ]
    return run_benchmark("runs", parts, options.json)


# --- many runs ----------------------------------------------------------------------------------


def measure_listing(repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Time of `ida-tui runs` relative to `ida-tui --version`, with all runs in the index."""
    size = _make_runs(Path("outputs"))
    first_s = _seconds("runs")
    runs, version = [], []
    for _ in range(repeats):
        runs.append(_seconds("runs"))
        version.append(_seconds("--version"))
    ratio = statistics.median(runs) / statistics.median(version)
    print(
        f"{RUNS:,} runs of {STEPS} steps ({size / 1e6:,.0f} MB): first listing"
        f" {first_s:.1f} s, later {statistics.median(runs):.3f} s;"
        f" --version {statistics.median(version):.3f} s (medians of {repeats})"
    )
    return [
        Goal("`runs` / `--version`", ratio, 3.0, "×"),
        Goal("the first listing", first_s, 30.0, " s"),
    ], {"runs_s": runs, "version_s": version, "first_s": first_s}


def _make_runs(outputs: Path) -> int:
    """Write runs in ten experiments, without completions; returns their size in bytes.

    The steps are the same in every run: only the ends of each file are read.
    """
    from ida_tui.events import codec
    from ida_tui.events import types as ev
    from tests.support.synthetic_run import run_events

    size = 0
    texts = (ev.TextGenerated, ev.CompletionFinished, ev.TokensGenerated, ev.CompletionScored)
    _, _, *rest = (e for e in run_events(Path("run"), STEPS, rows=1) if not isinstance(e, texts))
    middle = "".join(
        codec.encode(ev.Record(seq, "2026-01-01T00:00:00.000Z", event)) + "\n"
        for seq, event in enumerate(rest, start=2)
    ).encode()
    for number in range(RUNS):
        experiment = f"experiment-{number % 10}"
        run_id = f"2026{1 + number // 2000:02}{1 + number // 80 % 25:02}-{number % 80:02}0000"
        directory = outputs / experiment / run_id
        directory.mkdir(parents=True)
        head = ""
        for seq, event in zip(range(2), run_events(directory, STEPS), strict=False):
            text = codec.encode(ev.Record(seq, f"2026-01-01T00:00:00.{number % 1000:03}Z", event))
            head += text.replace('"quickstart"', f'"{experiment}"') + "\n"
        (directory / "events.jsonl").write_bytes(head.encode() + middle)
        size += len(head) + len(middle)
    return size


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    process = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    seconds = time.perf_counter() - started
    if process.returncode != 0 or not process.stdout:
        raise RuntimeError(process.stderr[-2000:])
    return seconds


# --- one long run -------------------------------------------------------------------------------


def measure_opening() -> tuple[list[Goal], dict[str, Any]]:
    """Memory and time to open runs of 10,000 and 100,000 steps."""
    from tests.support.synthetic_run import write

    for steps in (TINY, SHORT, LONG):
        write(_events_file(steps), steps, rows=1)
    short, long = _run_child("open", SHORT), _run_child("open", LONG)
    in_app = _run_child("app", LONG)
    tiny, lines = _run_child("lines", TINY)["peak_mb"], _run_child("lines", LONG)["peak_mb"]
    size = _events_file(LONG).stat().st_size
    per_step = 1e6 * (long["grown_mb"] - short["grown_mb"]) / (LONG - SHORT)
    print(
        f"{LONG:,} steps ({size / 1e6:,.0f} MB) read in {long['seconds']:.1f} s ({SHORT:,}:"
        f" {short['seconds']:.1f} s); memory +{long['grown_mb']:.0f} MB ({SHORT:,}:"
        f" +{short['grown_mb']:.0f} MB, {per_step:.0f} bytes per step); going back to a step"
        f" {long['back_s']:.2f} s\n"
        f"in the app +{in_app['grown_mb']:.0f} MB, {in_app['seconds']:.1f} s;"
        f" attach --lines +{lines - tiny:.0f} MB at its peak"
    )
    return [
        Goal(f"memory of {LONG:,} steps", long["grown_mb"], 64, " MB"),
        Goal("memory per step", per_step, 256, " B"),
        Goal("memory in the app", in_app["grown_mb"], 64, " MB"),
        Goal("memory of attach --lines", lines - tiny, 64, " MB"),
        Goal(f"opening {LONG:,} / {SHORT:,} steps", long["seconds"] / short["seconds"], 15, "×"),
        Goal("going back to a step", long["back_s"], 0.5, " s"),
    ], {"short": short, "long": long, "app": in_app, "lines_mb": lines, "lines_tiny_mb": tiny}


def _events_file(steps: int) -> Path:
    return Path(f"long/synthetic/{steps}/events.jsonl")


def _run_child(measurement: str, steps: int) -> dict[str, float]:
    """Run a measurement of this file in a new process; returns its figures."""
    argv = [sys.executable, __file__, "--child", measurement, str(_events_file(steps))]
    process = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return figures


def _measure_open(path: Path) -> dict[str, float]:
    from ida_tui.runs.log.replay import Replay

    Replay.open(_events_file(TINY))
    before = _memory_mb()
    started = time.perf_counter()
    replay = Replay.open(path)
    seconds = time.perf_counter() - started
    growth = _memory_mb() - before
    started = time.perf_counter()
    replay.state_at(replay.steps[-2])
    return {"seconds": seconds, "grown_mb": growth, "back_s": time.perf_counter() - started}


def _measure_app(path: Path) -> dict[str, float]:
    import asyncio

    from ida_tui.tui.app import IdaApp

    async def opened(app: Any, pilot: Any, path: Path) -> None:
        before = app.watched
        app.run_controller.open(path.parent.absolute())
        while app.watched is before:
            await asyncio.sleep(0.02)
        await pilot.pause()

    async def scenario() -> dict[str, float]:
        app = IdaApp(output_dir=Path("long"))
        async with app.run_test(size=(120, 40)) as pilot:
            await opened(app, pilot, _events_file(TINY))
            before = _memory_mb()
            started = time.perf_counter()
            await opened(app, pilot, path)
            seconds = time.perf_counter() - started
            return {"seconds": seconds, "grown_mb": _memory_mb() - before}

    return asyncio.run(scenario())


def _measure_lines(path: Path) -> dict[str, float]:
    argv = [*COMMAND, "attach", str(path.parent), "--lines"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
    # Linux reports kilobytes, macOS bytes.
    return {"peak_mb": used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)}


CHILDREN = {"open": _measure_open, "app": _measure_app, "lines": _measure_lines}


def _memory_mb() -> float:
    import psutil

    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
