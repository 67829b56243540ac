"""Snapshots of every screen at both sizes, with a recorded run and a fixed clock.

After an intended change, run `uv run pytest tests/tui/test_snapshots.py --snapshot-update` and check the
pictures in `tests/__snapshots__` before committing them.
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


async def show_side_by_side(stage: Stage) -> None:
    """The completions of a group side by side."""
    await stage.play_to_the_end()
    await stage.press("3", "v")


async def show_search(stage: Stage) -> None:
    """A search on the completions screen."""
    await stage.play_to_the_end()
    await stage.press("3", "slash", *"twist")


async def show_maximized_scores(stage: Stage) -> None:
    """The maximized scores pane."""
    await stage.play_to_the_end()
    await stage.press("S")


async def show_earlier_step(stage: Stage) -> None:
    """An earlier step."""
    await stage.play_to_the_end()
    await stage.press("left_square_bracket", "left_square_bracket")


async def show_invalid_value(stage: Stage) -> None:
    """An invalid value in the launch screen."""
    await stage.press("tab", "tab", "j", "j", "e", "x")


async def show_stop_question(stage: Stage) -> None:
    """The confirmation before a run is stopped."""
    await stage.play_to(5, "update")
    await stage.press("s")


async def show_starting_run(stage: Stage) -> None:
    """A run without any event yet."""
    await stage.play_to(0, "load", 0.0)


async def show_no_run(stage: Stage) -> None:
    """The run screen without a run."""
    await stage.press("2")


async def show_error(stage: Stage) -> None:
    """An error dialog."""
    stage.app.show_error(
        IdaError("this run cannot start yet", "key: OPENAI_API_KEY is not set\n  export it")
    )


async def show_paused(stage: Stage) -> None:
    """A run paused because of its judge."""
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


async def show_judge_check(stage: Stage) -> None:
    """The judge check of the offline heuristic."""
    await stage.press("c")


def write_second_run() -> None:
    """Writes a second, shorter run with other settings."""
    path = Path("outputs/quickstart/20261120-080000")
    synthetic_run.write(path / "events.jsonl", steps=30)
    changes = ["seed=1", "training.max_steps=30", "training.learning_rate=5e-4"]
    (path / "config.yaml").write_text(to_yaml(resolve("quickstart", changes).config))


async def show_marked_runs(stage: Stage) -> None:
    """Runs marked for comparison."""
    write_second_run()
    await stage.press("4", "r", "space", "space")


async def show_comparison(stage: Stage) -> None:
    """Two runs side by side."""
    write_second_run()
    await stage.press("4", "r", "space", "space", "c")


async def show_compared_metric(stage: Stage) -> None:
    """Two runs side by side, with one metric selected."""
    write_second_run()
    await stage.press("4", "r", "space", "space", "c", "n", "n")


async def show_sweep(stage: Stage) -> None:
    """A running sweep with three settings and three seeds."""
    rewards = (0.61, 0.74, 0.70, 0.60, 0.75, 0.68)
    runs: list[RunOutcome | None] = [RunOutcome(reward, cost=0.0123) for reward in rewards]
    runs[5] = RunOutcome(status="out_of_memory", message="Out of memory at step 2 of 2")
    sweep = synthetic_sweep.create_sweep(
        {"training.learning_rate": ("5e-4", "1e-3", "2e-3"), "seed": ("0", "1", "2")}, runs
    )
    owner.claim(RunDirectory(sweep.path))
    owner.claim(synthetic_sweep.add_run(sweep, 6, RunOutcome(status=None, steps=1)))
    await stage.press("4", "s")


async def show_spot_checks(stage: Stage) -> None:
    """Completions with spot checks: agreed and disagreed."""
    await stage.play_to_the_end()
    await stage.press("3", "plus", "j", "minus", "j", "plus")


async def show_chat(stage: Stage) -> None:
    """Judged answers of both models, and an answer in progress."""
    stage.app.chat_controller.chat = ScriptedChat(Path("outputs/quickstart/20261124-123120"))
    stage.app.chat_controller.chat.start()
    await stage.app.action_go("chat")
    for keys in (["ctrl+t"], ["ctrl+t", *"How do I kill a process", "question_mark", "enter"],
                 ["ctrl+r"], [*"Now slowly", "enter"]):  # fmt: skip
        stage.app.screen.poll_events()
        await stage.press(*keys)
    stage.app.screen.poll_events()
    await stage.wait_until_idle()


async def show_alert(stage: Stage) -> None:
    """A run with an alert."""
    await stage.play_to(14, "generate", 0.9)
    evidence = (
        "length correlates with R_IDA (r = 0.96) even among answers alone, or refusals alone, over"
        " the last 5 steps"
    )
    advice = "the judge rewards length: run `ida-tui judge check`, or choose another judge"
    stage.tape.insert(AlertRaised(14, "length pays", evidence, advice))
    await stage.play_to(14, "judge")


EXTRA_SCENES: dict[str, Scene] = {
    "side-by-side": show_side_by_side,
    "searching": show_search,
    "maximised": show_maximized_scores,
    "looking-back": show_earlier_step,
    "editing": show_invalid_value,
    "stopping": show_stop_question,
    "starting": show_starting_run,
    "no-run-yet": show_no_run,
    "error": show_error,
    "paused": show_paused,
    "judge-check": show_judge_check,
    "marked": show_marked_runs,
    "comparing": show_comparison,
    "comparing-one-figure": show_compared_metric,
    "spot-checked": show_spot_checks,
    "chat": show_chat,
    "alerted": show_alert,
    "sweeping": show_sweep,
}


class Svg(SingleFileSnapshotExtension):
    """A snapshot extension that writes one SVG file per picture."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.fixture(autouse=True)
def fixed_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the machine details on the screens the same wherever the tests run."""

    class Usage:
        free = 100e9

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    for module in ("planning.readiness", "planning.preview", "config.devices"):
        monkeypatch.setattr(f"ida_tui.{module}.guess_device", lambda: "cpu")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", [*SCENES, *EXTRA_SCENES])
def test_a_screen_looks_as_it_did(scene: str, size: str, snapshot: Any) -> None:
    stage = asyncio.run(play_scene((SCENES | EXTRA_SCENES)[scene], size=SIZES[size]))

    assert stage.last_screenshot == snapshot(extension_class=Svg)


def test_a_screen_that_is_too_small_looks_as_it_did(snapshot: Any) -> None:
    stage = asyncio.run(play_scene(SCENES["run"], size=(50, 12)))

    assert stage.last_screenshot == snapshot(extension_class=Svg)


def test_without_colour_the_lines_of_a_plot_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    svg = asyncio.run(play_scene(SCENES["finished"])).last_screenshot

    colors = set(re.findall(r"fill: (#[0-9a-f]{6})", svg))
    frame = {"#c5c8c6"}  # of the window frame in the SVG, not of the app
    assert all(c[1:3] == c[3:5] == c[5:7] for c in colors - frame), colors
    final_step = next(r.event for r in reversed(records()) if isinstance(r.event, StepFinished))
    for axis in ("risk", "align", "detail"):
        assert f"{axis}&#160;{final_step.scores[axis]:.1f}" in svg
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
