"""Benchmark of the app: first paint, smoothness, training time, opening a long run, a flood of events.

    uv run python benchmarks/ui.py            # about ten minutes
    uv run python benchmarks/ui.py --quick    # under four minutes
    uv run python benchmarks/ui.py --json ui.json

Everything is measured on a 120×40 pseudo-terminal whose output is read as a terminal would read it. Training
in the app and headless training take turns, step by step. The last line compares the figures with their
goals; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from benchmarks.goals import BenchmarkPart, Goal, build_parser, run_benchmark  # noqa: E402
from benchmarks.ui_child import FLOODS_PER_S, LONG, SHORT  # noqa: E402
from tests.support.terminal import Terminal  # noqa: E402

CHILD = str(ROOT / "benchmarks" / "ui_child.py")
WARM_UP = 3
"""Turns that are not counted: each process was stopped for a long time before its first turn."""

MINIMAL = """
from textual.app import App
from textual.widgets import Footer, Static
class Minimal(App):
    def compose(self):
        yield Static("the first paint")
        yield Footer()
Minimal().run()
"""


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = build_parser(__doc__).parse_args()
    parts: list[BenchmarkPart] = [
        lambda: measure_first_paint(5 if options.quick else 15),
        lambda: measure_smoothness(1 if options.quick else 3),
        lambda: measure_training(28 if options.quick else 80),
        measure_replay,
        measure_flood,
    ]
    return run_benchmark("ui", parts, options.json)


# --- first paint --------------------------------------------------------------------------------


def measure_first_paint(repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Seconds from process start to the first frame, compared with a minimal Textual app."""
    ours, minimal = [], []
    for _ in range(repeats):
        minimal.append(_seconds_until(b"the first paint", sys.executable, "-c", MINIMAL))
        ours.append(_seconds_until(b"quickstart", sys.executable, "-m", "ida_tui"))
    ratio = statistics.median(ours) / statistics.median(minimal)
    print(
        f"first paint: {statistics.median(ours):.2f} s, minimal Textual app"
        f" {statistics.median(minimal):.2f} s (medians of {repeats})"
    )
    return [Goal("first paint / minimal app", ratio, 1.5, "×")], {
        "first_paint_s": ours,
        "minimal_first_paint_s": minimal,
    }


def _seconds_until(marker: bytes, *argv: str) -> float:
    started = time.perf_counter()
    screen = Terminal(argv, PYTHONPATH=str(ROOT))
    try:
        while marker not in screen.output:
            screen.read(0.5)
        return time.perf_counter() - started
    finally:
        screen.close()


# --- a run in the app ---------------------------------------------------------------------------


def measure_smoothness(runs: int) -> tuple[list[Goal], dict[str, Any]]:
    """Lateness of the event loop from the start of a full quickstart in the app to its end."""
    figures = [_child("quickstart") for _ in range(runs)]
    for run in figures:
        print(
            f"full quickstart in the app: lateness p50 {run['p50_ms']:.1f} p99"
            f" {run['p99_ms']:.1f} max {run['max_ms']:.0f} ms"
            f" (before the first event p99 {run['start_p99_ms']:.1f} max {run['start_max_ms']:.0f} ms);"
            f" the app's thread used {run['app_cpu_s']:.2f} s of CPU; first event after"
            f" {run['start_s']:.1f} s, first step after {run['first_step_s']:.1f} s, end after"
            f" {run['total_s']:.1f} s",
            flush=True,
        )
    return [
        Goal("lateness p99", max(r["p99_ms"] for r in figures), 16, " ms"),
        Goal("lateness max", max(r["max_ms"] for r in figures), 150, " ms"),
    ], {"lateness": figures}


# --- with the app, and without ------------------------------------------------------------------


def measure_training(steps: int) -> tuple[list[Goal], dict[str, Any]]:
    """Seconds per step in the app relative to headless: two processes that take turns, step by step.

    While one process trains a step, the other is stopped (SIGSTOP), so that other load on the machine slows
    both down equally. The same seed gives both the same work.
    """
    common = ["evaluation.enabled=false", f"training.max_steps={steps}"]
    in_the_app = _AlternatingProcess(
        (sys.executable, CHILD, "turns", json.dumps([*common, "output_dir=in-app"])),
        Path("in-app"),
    )
    without = _AlternatingProcess(
        (sys.executable, "-m", "ida_tui", "--run", "quickstart", *common, "output_dir=headless"),
        Path("headless"),
    )
    both = (in_the_app, without)
    try:
        for process in both:
            process.run_until_step()
            process.halt()
        # The last steps are left out: a process that has ended cannot take a turn.
        for number in range(1, steps - 2):
            for process in both if number % 2 else reversed(both):
                process.take_turn()
    finally:
        for process in both:
            process.screen.close()
    in_app_s, headless_s = (statistics.mean(process.seconds[WARM_UP:]) for process in both)
    ratio = in_app_s / headless_s
    print(
        f"training in turns: a step takes {in_app_s:.3f} s in the app, {headless_s:.3f} s headless"
        f" (means of {len(without.seconds) - WARM_UP})"
    )
    return [Goal("training in the app / headless", ratio, 1.03, "×")], {
        "step_app_s": in_the_app.seconds,
        "step_headless_s": without.seconds,
    }


class _AlternatingProcess:
    """A training process that only runs during its turns."""

    def __init__(self, argv: tuple[str, ...], output_dir: Path) -> None:
        self.seconds: list[float] = []
        self.screen = Terminal(argv, PYTHONPATH=str(ROOT))
        self._output_dir = output_dir
        self._events: Path | None = None
        self._offset = 0

    def run_until_step(self) -> int:
        """Run to the end of a step, reading the terminal output; returns the number of finished steps."""
        deadline = time.monotonic() + 300
        while (finished := self._steps_finished()) == 0:
            self.screen.read(0.002)
            if self.screen.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.screen.output[-2000:].decode(errors="replace"))
        return finished

    def take_turn(self) -> None:
        """Run and time one step; if several finished before the check, count the mean for each."""
        started = time.perf_counter()
        self._signal(signal.SIGCONT)
        finished = self.run_until_step()
        self.seconds += [(time.perf_counter() - started) / finished] * finished
        self.halt()

    def halt(self) -> None:
        """Stop the process and the one that trains (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        process = psutil.Process(self.screen.process.pid)
        for member in (process, *process.children(recursive=True)):
            member.send_signal(number)

    def _steps_finished(self) -> int:
        if self._events is None:
            self._events = next(self._output_dir.glob("quickstart/2*/events.jsonl"), None)
            return 0
        with open(self._events, "rb") as file:
            file.seek(self._offset)
            appended = file.read()
        self._offset += len(appended)
        return appended.count(b'"type": "StepFinished"')


# --- opening a long run -------------------------------------------------------------------------


def measure_replay() -> tuple[list[Goal], dict[str, Any]]:
    """Seconds from opening a run of 10,000 steps until its end is on screen, compared with reading its file.

    Also how late the event loop handles a key meanwhile, and the memory that the run takes.
    """
    from tests.support.synthetic_run import write

    for steps in (LONG, SHORT):
        write(Path(f"long/synthetic/{steps}/events.jsonl"), steps=steps)
    figures = _child("replay")
    ratio = figures["seconds"] / figures["parse_s"]
    print(
        f"replay: {LONG:,} steps ({Path(f'long/synthetic/{LONG}/events.jsonl').stat().st_size / 1e6:.0f}"
        f" MB) in {figures['seconds']:.2f} s; reading the file {figures['read_s']:.2f} s, reading and parsing"
        f" its lines {figures['parse_s']:.2f} s; lateness meanwhile p99 {figures['p99_ms']:.1f} max"
        f" {figures['max_ms']:.0f} ms; memory +{figures['grown_mb']:.0f} MB the first time,"
        f" +{figures['again_mb']:.0f} MB after three more"
    )
    return [
        Goal(f"opening {LONG:,} steps / reading and parsing its lines", ratio, 1.5, "×"),
        Goal(f"opening {LONG:,} steps", figures["seconds"], 1.5, " s"),
        Goal("lateness max while it opens", figures["max_ms"], 100, " ms"),
        Goal("memory of opening it", figures["grown_mb"], 64, " MB"),
        Goal("memory of opening it three more times", figures["again_mb"], 16, " MB"),
    ], {"replay": figures}


# --- a flood ------------------------------------------------------------------------------------


def measure_flood() -> tuple[list[Goal], dict[str, Any]]:
    """2,000 and 5,000 events per second for 20 s: the app must stay responsive and lose no event."""
    goals: list[Goal] = []
    details: dict[str, Any] = {}
    for rate in FLOODS_PER_S:
        figures = details[f"flood-{rate}"] = _child(f"flood-{rate}")
        print(
            f"flood: {figures['emitted']:,} events at {figures['per_s']:,.0f}/s, {figures['on_disk']:,} on"
            f" disk, {figures['folded']:,} on screen; lateness p99 {figures['p99_ms']:.1f}"
            f" max {figures['max_ms']:.0f} ms"
        )
        name, emitted = f"of {rate:,}/s", figures["emitted"]
        goals += [
            Goal(f"events lost in a flood {name}", emitted - figures["on_disk"], 0, ""),
            Goal(f"events not shown after a flood {name}", emitted - figures["folded"], 0, ""),
            Goal(f"shortfall of a flood {name}", max(0.0, 1 - figures["per_s"] / rate), 0.02, ""),
            Goal(f"lateness p99 in a flood {name}", figures["p99_ms"], 50, " ms"),
            Goal(f"lateness max in a flood {name}", figures["max_ms"], 250, " ms"),
        ]
    return goals, details


# --- in a child process ---------------------------------------------------------------------------


def _child(name: str) -> dict[str, Any]:
    """Run a measurement of `ui_child` on a pseudo-terminal; returns the figures that it wrote."""
    figures = Path(f"{name}.json").resolve()
    figures.unlink(missing_ok=True)
    screen = Terminal((sys.executable, CHILD, name, str(figures)))
    try:
        while screen.process.poll() is None:
            screen.read(0.5)
    finally:
        screen.close()
    if not figures.is_file():
        raise RuntimeError(screen.output[-2000:].decode(errors="replace"))
    data: dict[str, Any] = json.loads(figures.read_text())
    return data


if __name__ == "__main__":
    sys.exit(main())
