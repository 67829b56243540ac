"""What every screen looks like, at both sizes, over a recorded run and with the clock standing still.

After a change that was meant: `uv run pytest tests/tui/test_snapshots.py --snapshot-update`, then look at the
pictures in `tests/__snapshots__` before they are committed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import JudgeConfig
from ida_tui.errors import IdaError
from ida_tui.events.types import AlertRaised, RunPaused, StepFinished
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.screens.paused import PausedDialog
from screenshots.make import SCENES, Scene, Stage, main, play_scene
from screenshots.recorded import records
from tests.support import synthetic_run, synthetic_sweep
from tests.support.scripted_chat import ScriptedChat
from tests.support.synthetic_sweep import RunOutcome

SIZES = {"wide": (120, 40), "small": (80, 24)}


async def side_by_side(stage: Stage) -> None:
    """A group, next to each other."""
    await stage.play_to_the_end()
    await stage.press("3", "v")


async def searching(stage: Stage) -> None:
    """Words to look for."""
    await stage.play_to_the_end()
    await stage.press("3", "slash", *"twist")


async def maximised(stage: Stage) -> None:
    """The scores alone."""
    await stage.play_to_the_end()
    await stage.press("S")


async def looking_back(stage: Stage) -> None:
    """An earlier step."""
    await stage.play_to_the_end()
    await stage.press("left_square_bracket", "left_square_bracket")


async def editing(stage: Stage) -> None:
    """A value that is wrong."""
    await stage.press("tab", "tab", "j", "j", "e", "x")


async def stopping(stage: Stage) -> None:
    """The question before a run is stopped."""
    await stage.play_to(5, "update")
    await stage.press("s")


async def starting(stage: Stage) -> None:
    """A run of which nothing has been heard yet."""
    await stage.play_to(0, "load", 0.0)


async def no_run_yet(stage: Stage) -> None:
    """The run screen before there is one."""
    await stage.press("2")


async def error(stage: Stage) -> None:
    """Something went wrong."""
    stage.app.show_error(
        IdaError("this run cannot start yet", "key: OPENAI_API_KEY is not set\n  export it")
    )


async def paused(stage: Stage) -> None:
    """A run that waits for a person."""
    await stage.play_to(5, "judge")
    await stage.app.push_screen(
        PausedDialog(
            RunPaused(
                step=4,
                reason="the judge gpt-4o-mini rejected the API key",
                hint="export OPENAI_API_KEY=sk-..., or a line OPENAI_API_KEY=sk-... in .env",
            ),
            JudgeConfig(name="gpt-4o-mini", kind="openai", model="gpt-4o-mini"),
            0.5,
            lambda judge: None,
        )
    )


async def judge_check(stage: Stage) -> None:
    """What the offline heuristic says of ten fixed answers."""
    await stage.press("c")


def another_run() -> None:
    """A second run, of another profile and shorter."""
    path = Path("outputs/quickstart/20261120-080000")
    synthetic_run.write(path / "events.jsonl", steps=30)
    changes = ["seed=1", "training.max_steps=30", "training.learning_rate=5e-4"]
    (path / "config.yaml").write_text(to_yaml(resolve("quickstart", changes).config))


async def marked(stage: Stage) -> None:
    """Runs that are marked, to be compared."""
    another_run()
    await stage.press("4", "r", "space", "space")


async def comparing(stage: Stage) -> None:
    """Two runs side by side."""
    another_run()
    await stage.press("4", "r", "space", "space", "c")


async def comparing_one_figure(stage: Stage) -> None:
    """Two runs side by side, and one figure of theirs."""
    another_run()
    await stage.press("4", "r", "space", "space", "c", "n", "n")


async def sweeping(stage: Stage) -> None:
    """A sweep of three settings and three seeds that is carried out now."""
    rewards = (0.61, 0.74, 0.70, 0.60, 0.75, 0.68)
    made: list[RunOutcome | None] = [RunOutcome(reward, cost=0.0123) for reward in rewards]
    made[5] = RunOutcome(status="out_of_memory", message="Out of memory at step 2 of 2")
    sweep = synthetic_sweep.create_sweep(
        {"training.learning_rate": ("5e-4", "1e-3", "2e-3"), "seed": ("0", "1", "2")}, made
    )
    owner.claim(RunDirectory(sweep.path))
    owner.claim(synthetic_sweep.add_run(sweep, 6, RunOutcome(status=None, steps=1)))
    await stage.press("4", "s")


async def spot_checked(stage: Stage) -> None:
    """Completions whose scores a person agreed and disagreed with."""
    await stage.play_to_the_end()
    await stage.press("3", "plus", "j", "minus", "j", "plus")


async def chat(stage: Stage) -> None:
    """Both models' answers, judged, and one that is being written."""
    stage.app.chat_controller.chat = ScriptedChat(Path("outputs/quickstart/20261124-123120"))
    stage.app.chat_controller.chat.start()
    await stage.app.action_go("chat")
    for keys in (["ctrl+t"], ["ctrl+t", *"How do I kill a process", "question_mark", "enter"],
                 ["ctrl+r"], [*"Now slowly", "enter"]):  # fmt: skip
        stage.app.screen.poll_events()
        await stage.press(*keys)
    stage.app.screen.poll_events()
    await stage.wait_until_idle()


async def alerted(stage: Stage) -> None:
    """A run with an alert."""
    await stage.play_to(14, "generate", 0.9)
    evidence = (
        "length and R_IDA correlate with r = 0.96 among completions that all answer (or all decline), over"
        " the last 5 steps"
    )
    advice = "the judge rewards length: run `ida-tui judge check`, or choose another judge"
    stage.tape.insert(AlertRaised(14, "length pays", evidence, advice))
    await stage.play_to(14, "judge")


OTHERS: dict[str, Scene] = {
    "side-by-side": side_by_side,
    "searching": searching,
    "maximised": maximised,
    "looking-back": looking_back,
    "editing": editing,
    "stopping": stopping,
    "starting": starting,
    "no-run-yet": no_run_yet,
    "error": error,
    "paused": paused,
    "judge-check": judge_check,
    "marked": marked,
    "comparing": comparing,
    "comparing-one-figure": comparing_one_figure,
    "spot-checked": spot_checked,
    "chat": chat,
    "alerted": alerted,
    "sweeping": sweeping,
}


class Svg(SingleFileSnapshotExtension):
    """One picture a file."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.fixture(autouse=True)
def the_same_machine_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a screen tells of the machine is the same wherever the test runs."""

    class Usage:
        free = 100e9

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    for module in ("planning.readiness", "planning.preview", "config.devices"):
        monkeypatch.setattr(f"ida_tui.{module}.guess_device", lambda: "cpu")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", [*SCENES, *OTHERS])
def test_a_screen_looks_as_it_did(scene: str, size: str, snapshot: Any) -> None:
    stage = asyncio.run(play_scene((SCENES | OTHERS)[scene], size=SIZES[size]))

    assert stage.last_screenshot == snapshot(extension_class=Svg)


def test_a_screen_that_is_too_small_looks_as_it_did(snapshot: Any) -> None:
    stage = asyncio.run(play_scene(SCENES["run"], size=(50, 12)))

    assert stage.last_screenshot == snapshot(extension_class=Svg)


def test_without_colour_the_lines_of_a_plot_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    drawn = asyncio.run(play_scene(SCENES["finished"])).last_screenshot

    colours = set(re.findall(r"fill: (#[0-9a-f]{6})", drawn))
    frame = {"#c5c8c6"}  # of the drawn window, not of the app
    assert all(c[1:3] == c[3:5] == c[5:7] for c in colours - frame), colours
    last = next(r.event for r in reversed(records()) if isinstance(r.event, StepFinished))
    for axis in ("risk", "align", "detail"):
        assert f"{axis}&#160;{getattr(last, axis):.1f}" in drawn
    os.environ.pop("NO_COLOR", None)


def test_the_pictures_of_the_readme_can_be_drawn(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("pictures")

    main(folder)

    names = {path.name for path in folder.iterdir()}
    assert {f"{scene}-{theme}.svg" for scene in SCENES for theme in ("dark", "light")} < names
    assert {"tour.svg", "headless.svg"} < names
    for path in folder.iterdir():
        text = path.read_text()
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert str(tmp_path_factory.getbasetemp()) not in text
    assert (folder / "tour.svg").read_text().count("@keyframes") == 15
