"""Screenshots for the README: the real app, driven by keys, showing a recorded run.

    uv run python screenshots/make.py            # writes screenshots/*.svg
    uv run python screenshots/make.py FOLDER     # writes to another folder

`tour.svg` is animated; any browser plays it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from textual.pilot import Pilot

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ida_tui.cli.output.printer import styled_line  # noqa: E402
from ida_tui.config.resolve import resolve  # noqa: E402
from ida_tui.events import narration  # noqa: E402
from ida_tui.events import types as ev  # noqa: E402
from ida_tui.events.state import RunState, fold  # noqa: E402
from ida_tui.tui.app import IdaApp  # noqa: E402
from ida_tui.tui.run_view.watched import RunView  # noqa: E402
from screenshots.drawing import animate, remove_web_fonts  # noqa: E402
from screenshots.recorded import RecordedSource, records, unpack  # noqa: E402

SIZE = (120, 40)
THEMES = {"dark": "textual-dark", "light": "textual-light"}
LIVE_STEP = 14
"""The step shown in the screenshots of a live run."""


@dataclass
class Stage:
    """The running app and the recorded run that it shows.

    Args:
        app: the app.
        pilot: sends keys to the app.
        tape: the recorded run.
        now: the current time for the app.
    """

    app: IdaApp
    pilot: Pilot[None]
    tape: RecordedSource
    now: datetime
    last_screenshot: str = ""
    """The screenshot at the end of the scene."""

    async def press(self, *keys: str) -> None:
        """Press keys, each followed by waiting until the app is idle."""
        for key in keys:
            await self.pilot.press(key)
            await self.wait_until_idle()

    async def play_to(self, step: int, phase: ev.Phase, part: float = 1.0) -> None:
        """Play the run up to a point of a phase: `part` is the share of the phase, 0 to 1."""
        self.now = self.tape.seek(step=step, phase=phase, part=part)
        await self._refresh()

    async def play_to_the_end(self) -> None:
        """Play the run to its end."""
        self.now = self.tape.seek_end()
        await self._refresh()

    async def _refresh(self) -> None:
        if self.app.run_view is None:
            self.app.run_controller.show(RunView(self.tape))
        await self.wait_until_idle()
        self.app.run_controller.tick()
        await self.wait_until_idle()

    async def wait_until_idle(self) -> None:
        """Wait until the app has nothing left to draw."""
        while any(not worker.is_finished for worker in list(self.app.workers)):
            await self.pilot.pause(0.01)
        await self.pilot.pause()
        await self.pilot.pause()

    def screenshot(self) -> str:
        """Screenshot of the app, as SVG."""
        return remove_web_fonts(self.app.export_screenshot(title="ida-tui"))


Scene = Callable[[Stage], Awaitable[None]]


async def launch(stage: Stage) -> None:
    """The launch screen right after start."""


async def run(stage: Stage) -> None:
    """A run in the middle, while it generates."""
    await stage.play_to(LIVE_STEP, "generate", 0.9)


async def finished(stage: Stage) -> None:
    """The same run at its end."""
    await stage.play_to_the_end()


async def completions(stage: Stage) -> None:
    """The completions screen, sorted by reward."""
    await stage.play_to_the_end()
    await stage.press("3", "r")


async def runs(stage: Stage) -> None:
    """The list of runs."""
    await stage.press("4")


async def help_(stage: Stage) -> None:
    """The help screen."""
    await stage.press("question_mark")


SCENES: dict[str, Scene] = {
    "launch": launch,
    "run": run,
    "finished": finished,
    "completions": completions,
    "runs": runs,
    "help": help_,
}


async def tour(stage: Stage) -> list[tuple[str, float]]:
    """A full run as frames: SVGs with their durations in seconds."""
    frames = [(stage.screenshot(), 2.5)]
    await stage.play_to(1, "generate", 0.9)
    frames.append((stage.screenshot(), 1.5))
    await stage.play_to(3, "judge")
    await stage.press("3")
    frames.append((stage.screenshot(), 3.0))
    await stage.press("2")
    for step in (4, 7, 10, 13, 16, 20, 25, 30, 35, 40):
        await stage.play_to(step, "generate", 0.9)
        frames.append((stage.screenshot(), 0.7))
    await stage.play_to_the_end()
    frames.append((stage.screenshot(), 3.0))
    await stage.press("3", "r")
    frames.append((stage.screenshot(), 4.0))
    return frames


def transcript() -> str:
    """Output of `ida-tui --run quickstart` without the steps in the middle, as SVG."""
    console = Console(record=True, width=102, highlight=False, file=open(os.devnull, "w"))  # noqa: SIM115
    state, step = RunState(), 0
    printed = [
        "$ uv run ida-tui --run quickstart",
        narration.config_loaded_line(resolve("quickstart").config),
    ]
    for record in records():
        state = fold(state, record)
        steps = state.run.steps if state.run else 0
        if isinstance(record.event, ev.JudgeBatchFinished | ev.StepFinished):
            step += isinstance(record.event, ev.JudgeBatchFinished)
            if 2 < step <= steps - 2:
                if step == 3 and isinstance(record.event, ev.StepFinished):
                    printed.append(f"   … {steps - 4} steps later …")
                continue
        printed += narration.event_lines(state, record.event)
    for line in printed:
        console.print(styled_line(line))
    return remove_web_fonts(console.export_svg(title="ida-tui --run quickstart"))


async def play_scene(
    scene: Callable[[Stage], Awaitable[object]],
    *,
    theme: str = "dark",
    size: tuple[int, int] = SIZE,
) -> Stage:
    """Play one scene in a new app, in the working directory; returns the final stage."""
    directory = next(Path("outputs").glob("*/2*"), None) or unpack(Path())
    stage: Stage
    app = IdaApp(clock=lambda: stage.now, own_memory=lambda: 77_000_000)
    # The next morning, so that the recorded run is from yesterday.
    morning = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
    async with app.run_test(size=size) as pilot:
        stage = Stage(app, pilot, RecordedSource(directory), morning)
        app.theme = THEMES[theme]
        app.animation_level = "none"
        await stage.wait_until_idle()
        await scene(stage)
        stage.last_screenshot = stage.screenshot()
    return stage


def main(folder: Path) -> None:
    """Write every screenshot to the folder."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TZ"] = "UTC"
    time.tzset()
    previous = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ida-tui-") as working_directory:
        os.chdir(working_directory)
        try:
            for theme in THEMES:
                for name, scene in SCENES.items():
                    stage = asyncio.run(play_scene(scene, theme=theme))
                    _write(folder / f"{name}-{theme}.svg", stage.last_screenshot)
            frames: list[tuple[str, float]] = []

            async def collect(stage: Stage) -> None:
                frames.extend(await tour(stage))

            asyncio.run(play_scene(collect))
            _write(folder / "tour.svg", animate(frames))
            _write(folder / "headless.svg", transcript())
        finally:
            os.chdir(previous)


def _write(file: Path, svg: str) -> None:
    file.write_text(svg, encoding="utf-8")
    print(f"{file.name}  {len(svg) / 1000:.0f} kB")


def _folder(arguments: Sequence[str]) -> Path:
    return Path(arguments[0]) if arguments else Path(__file__).parent


if __name__ == "__main__":
    main(_folder(sys.argv[1:]))
