"""How the run store grows: a list of 5,000 runs, and a run of 100,000 steps.

    uv run python benchmarks/runs.py            # about four minutes
    uv run python benchmarks/runs.py --quick    # under four minutes
    uv run python benchmarks/runs.py --json runs.json

Whole processes are timed, `ida-tui runs` and `ida-tui --version` by turns. Memory is what a process holds after
it has opened a run, over what the same process held after it had opened a run of 10 steps. The last line has the
figures against their goals; the exit status is 1 if one is missed. It needs 3 GB of disk for a while.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, Part, measure, parser  # noqa: E402

RUNS, STEPS = 5_000, 200
COMMAND = (sys.executable, "-m", "ida_tui")


def main() -> int:
    """Measure everything; returns the exit status."""
    options = parser(__doc__).parse_args()
    parts: list[Part] = [lambda: many_runs(9 if options.quick else 31)]
    return measure("runs", parts, options.json)


# --- many runs ----------------------------------------------------------------------------------


def many_runs(repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """`ida-tui runs` over `ida-tui --version`, once the runs are in the index."""
    size = _make_runs(Path("outputs"))
    first_s = _seconds("runs")
    runs, version = [], []
    for _ in range(repeats):
        runs.append(_seconds("runs"))
        version.append(_seconds("--version"))
    ratio = statistics.median(runs) / statistics.median(version)
    print(
        f"{RUNS:,} runs of {STEPS} steps ({size / 1e6:,.0f} MB): listed the first time in {first_s:.1f} s, then"
        f" in {statistics.median(runs):.3f} s; --version {statistics.median(version):.3f} s"
        f" (medians of {repeats})"
    )
    return [
        Goal("`runs` / `--version`", ratio, 3.0, "×"),
        Goal("the first listing", first_s, 30.0, " s"),
    ], {"runs_s": runs, "version_s": version, "first_s": first_s}


def _make_runs(outputs: Path) -> int:
    """Runs in ten experiments, without the completions of their steps; returns their bytes.

    The lines about the steps are the same in all of them: only the ends of a file are read.
    """
    from ida_tui import events as ev
    from tests.synthetic_run import run_events

    size = 0
    texts = (ev.TextGenerated, ev.CompletionFinished, ev.TokensGenerated, ev.CompletionScored)
    _, _, *rest = (e for e in run_events(Path("run"), STEPS, rows=1) if not isinstance(e, texts))
    middle = "".join(
        ev.encode(ev.Record(seq, "2026-01-01T00:00:00.000Z", event)) + "\n"
        for seq, event in enumerate(rest, start=2)
    ).encode()
    for number in range(RUNS):
        experiment = f"experiment-{number % 10}"
        run_id = f"2026{1 + number // 2000:02}{1 + number // 80 % 25:02}-{number % 80:02}0000"
        directory = outputs / experiment / run_id
        directory.mkdir(parents=True)
        head = ""
        for seq, event in zip(range(2), run_events(directory, STEPS), strict=False):
            text = ev.encode(ev.Record(seq, f"2026-01-01T00:00:00.{number % 1000:03}Z", event))
            head += text.replace('"quickstart"', f'"{experiment}"') + "\n"
        (directory / "events.jsonl").write_bytes(head.encode() + middle)
        size += len(head) + len(middle)
    return size


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(done.stderr[-2000:])
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
