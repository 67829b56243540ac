"""Measurements of the app's benchmark that run in the app itself, beside a probe of its event loop.

    python benchmarks/ui_child.py NAME FILE

runs the real app on this terminal and writes the figures to the file; `ui` reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

PROBE_S = 0.01
"""Interval of the probe's timer; the event loop's lateness is how much later the probe wakes up."""
FLOODS_PER_S, FLOOD_S = (2000, 5000), 20
"""Events per second of each flood, and its duration in seconds."""
LONG, SHORT = 10_000, 1_000
"""Steps of the two synthetic runs that are opened."""


class LatenessProbe:
    """Measures how much later than requested the event loop wakes a task."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    @contextlib.asynccontextmanager
    async def measuring(self) -> Any:
        """Measure the event loop inside the block."""
        task = asyncio.create_task(self._measure())
        try:
            yield self
        finally:
            task.cancel()

    async def _measure(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(PROBE_S)
            self.samples.append(time.perf_counter() - started - PROBE_S)

    def figures(self) -> dict[str, float]:
        """Median, 99th percentile and maximum, in milliseconds."""
        ordered = sorted(self.samples)
        return {
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
            "max_ms": 1000 * ordered[-1],
        }


def _run_app(scenario: Callable[[Any], Any]) -> None:
    """Run the real app on this terminal together with a scenario; exits when the scenario ends."""
    from ida_tui.tui.app import IdaApp

    class Measured(IdaApp):
        async def on_mount(self) -> None:
            self.run_worker(self._measure())

        async def _measure(self) -> None:
            await scenario(self)
            self.exit()

    Measured(output_dir=Path("long")).run()


def _quickstart(figures: Path) -> None:
    from ida_tui.config.resolve import resolve

    async def scenario(app: Any) -> None:
        config = resolve("quickstart", ["output_dir=with-app"]).config
        starting, running = LatenessProbe(), LatenessProbe()
        worst: list[tuple[float, int, str]] = []
        first_step_s = 0.0
        cpu, started = time.thread_time(), time.perf_counter()
        async with running.measuring():
            async with starting.measuring():
                app.run_controller.start(config, None)
                while app.run_view.state.run is None:
                    await asyncio.sleep(0.1)
                start_s = time.perf_counter() - started
            while not app.run_view.source.finished:
                await asyncio.sleep(0.1)
                if app.run_view.state.steps and not first_step_s:
                    first_step_s = time.perf_counter() - started
                # Record step and phase of the worst lateness, to help find its cause.
                lateness = max(running.samples[-20:], default=0.0)
                worst.append(
                    (round(1000 * lateness), app.run_view.state.step, app.run_view.state.phase)
                )
        total_s = time.perf_counter() - started
        events = Path(app.run_view.state.run.directory).resolve() / "events.jsonl"
        figures.write_text(
            json.dumps(
                running.figures()
                | {
                    "start_p99_ms": starting.figures()["p99_ms"],
                    "start_max_ms": starting.figures()["max_ms"],
                    "start_s": start_s,
                    "first_step_s": first_step_s,
                    "total_s": total_s,
                    "app_cpu_s": time.thread_time() - cpu,
                    "worst_ms_step_phase": sorted(worst, reverse=True)[:8],
                    "events": str(events),
                }
            )
        )

    _run_app(scenario)


def _turns(overrides: Path) -> None:
    from ida_tui.config.resolve import resolve

    async def scenario(app: Any) -> None:
        # Textual would set up the terminal again after each stop, as after ctrl+z.
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        app.run_controller.start(resolve("quickstart", json.loads(str(overrides))).config, None)
        while not app.run_view.source.finished:
            await asyncio.sleep(0.5)

    _run_app(scenario)


def _replay(figures: Path) -> None:
    process = psutil.Process()

    def memory_mb() -> float:
        gc.collect()
        return float(process.memory_info().rss) / 1e6

    async def opened(app: Any, steps: int) -> float:
        before = app.run_view
        started = time.perf_counter()
        app.run_controller.open(Path(f"long/synthetic/{steps}"))
        while app.run_view is before or len(app.run_view.state.steps) < steps:
            await asyncio.sleep(0.005)
        await _painted(app)
        return time.perf_counter() - started

    def seconds_of(read: Callable[[Path], object]) -> float:
        started = time.perf_counter()
        read(Path(f"long/synthetic/{LONG}/events.jsonl"))
        return time.perf_counter() - started

    async def scenario(app: Any) -> None:
        await opened(app, SHORT)
        read_s = await asyncio.to_thread(seconds_of, Path.read_bytes)
        parse_s = await asyncio.to_thread(seconds_of, _parse_lines)
        small = memory_mb()
        probe = LatenessProbe()
        async with probe.measuring():
            seconds = await opened(app, LONG)
        grown = memory_mb()
        for _ in range(3):
            await opened(app, LONG)
        figures.write_text(
            json.dumps(
                probe.figures()
                | {
                    "seconds": seconds,
                    "read_s": read_s,
                    "parse_s": parse_s,
                    "grown_mb": grown - small,
                    "again_mb": memory_mb() - grown,
                }
            )
        )

    _run_app(scenario)


def _parse_lines(path: Path) -> None:
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)


async def _painted(app: Any) -> None:
    done = asyncio.Event()
    app.screen.call_after_refresh(done.set)
    await done.wait()


def _flood(per_s: int, figures: Path) -> None:
    from ida_tui.runs.log.writer import EventLog
    from ida_tui.tui.run_view.sources import LiveSource
    from ida_tui.tui.run_view.watched import RunView
    from tests.support.scripted_session import ScriptedSession, run_ended, run_started
    from tests.support.synthetic_run import step_events

    folder = Path(f"flood-{per_s}")
    emitted = 0
    seconds = 0.0

    def events() -> Iterator[Any]:
        step = 1
        while True:
            yield from step_events(step, steps=LONG)
            step += 1

    def script(log: EventLog, stop: threading.Event) -> None:
        nonlocal emitted, seconds
        log.emit(run_started(folder))
        endless, started = events(), time.perf_counter()
        while emitted < per_s * FLOOD_S:
            expected = int((time.perf_counter() - started) * per_s)
            for _ in range(min(expected, per_s * FLOOD_S) - emitted):
                log.emit(next(endless))
                emitted += 1
            time.sleep(0.002)
        seconds = time.perf_counter() - started
        log.emit(run_ended("done", "Training complete"))

    async def scenario(app: Any) -> None:
        session = ScriptedSession(folder, script)
        probe = LatenessProbe()
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        async with probe.measuring():
            while not session.finished:
                await asyncio.sleep(0.1)
            app.run_controller.tick()
        count = subprocess.run(
            ["wc", "-l", str(folder / "events.jsonl")], capture_output=True, text=True, check=True
        )
        figures.write_text(
            json.dumps(
                probe.figures()
                | {
                    "emitted": emitted + 2,
                    "per_s": emitted / seconds,
                    "on_disk": int(count.stdout.split()[0]),
                    "folded": app.run_view.state.seq + 1,
                }
            )
        )

    _run_app(scenario)


CHILDREN = {"quickstart": _quickstart, "turns": _turns, "replay": _replay} | {
    f"flood-{rate}": partial(_flood, rate) for rate in FLOODS_PER_S
}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](Path(sys.argv[2]))
