"""The app: navigation between screens, watching a run, and quitting."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from ida_tui.errors import ExitCode, IdaError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import fold_all
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import EventLog
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.dialogs import ErrorDialog, QuitDialog
from ida_tui.tui.screens.help import HelpScreen
from tests.support.app_driver import SMALL, drive, panel_text, settled, text_on_screen
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import (
    Script,
    ScriptedSession,
    run_ended,
    run_started,
    until_stopped,
)
from tests.support.synthetic_run import step_events


def start_live_run(app: IdaApp, script: Script, directory: Path = Path("run")) -> ScriptedSession:
    """Starts a scripted run and shows it in the app."""
    session = ScriptedSession(directory, script)
    session.start()
    app.run_controller.show(RunView(LiveSource(session)))
    return session


async def wait_until_finished(app: IdaApp, pilot: Pilot[None], session: ScriptedSession) -> None:
    """Waits until the app has read all events of the run."""
    session.join(PATIENCE_S)
    while not session.finished:
        app.run_controller.tick()
    app.run_controller.tick()
    await pilot.pause()


@pytest.mark.parametrize(
    ("key", "mode"), [("1", "launch"), ("2", "run"), ("3", "completions"), ("4", "runs")]
)
def test_a_digit_opens_a_screen(key: str, mode: str) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("runs" if mode == "launch" else "launch")
        app.screen.set_focus(None)
        await pilot.press(key)
        assert app.current_mode == mode

    drive(scenario)


@pytest.mark.parametrize("key", ["question_mark", "5", "f1"])
def test_the_help_opens_over_a_screen_and_closes(key: str) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.screen.set_focus(None)
        await pilot.press(key)
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("j", "k", "escape")
        assert not isinstance(app.screen, HelpScreen)
        assert app.current_mode == "launch"

    drive(scenario, size=SMALL)


def test_escape_returns_to_the_launch_screen() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("runs")
        app.screen.set_focus(None)
        await pilot.press("escape")
        assert app.current_mode == "launch"

    drive(scenario)


def test_a_terminal_that_is_too_small_shows_the_required_size() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        assert "ida-tui needs 60×16" in text_on_screen(app)
        assert "this terminal is 59×16" in text_on_screen(app)
        await pilot.resize_terminal(60, 16)
        await pilot.pause()
        assert "ida-tui needs" not in text_on_screen(app)

    drive(scenario, size=(59, 16))


def test_a_started_run_is_shown_and_its_state_follows_its_events() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, until_stopped)
        await pilot.pause()
        assert app.current_mode == "run"
        session.request_stop()
        await wait_until_finished(app, pilot, session)
        assert app.run_view is not None
        assert app.run_view.state == fold_all(read_events(Path("run/events.jsonl")))

    drive(scenario)


def test_a_second_run_is_not_started_while_one_is_live() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, until_stopped)
        first = app.run_view
        app.run_controller.start(session.config, None)
        assert app.run_view is first
        session.request_stop()
        session.join(PATIENCE_S)

    drive(scenario)


def test_quitting_without_a_live_run_asks_nothing() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.screen.set_focus(None)
        await pilot.press("q")
        assert app.return_code == 0

    drive(scenario)


def test_quitting_with_a_live_run_asks_and_n_stays() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, until_stopped)
        await pilot.pause()
        await pilot.press("q")
        assert isinstance(app.screen, QuitDialog)
        assert "Stop it and quit?" in panel_text(app)
        await pilot.press("n")
        assert not isinstance(app.screen, QuitDialog)
        assert not session.stop_requested
        session.request_stop()
        session.join(PATIENCE_S)

    drive(scenario)


def test_quitting_with_a_live_run_stops_it_first() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, until_stopped)
        await pilot.pause()
        await pilot.press("q", "y")
        assert session.stop_requested
        await wait_until_finished(app, pilot, session)
        assert app.return_code == 0
        assert app.run_view is not None
        assert app.run_view.state.ended is not None

    drive(scenario)


def test_an_error_dialog_explains_why_a_run_could_not_start() -> None:
    def fail_to_start(log: EventLog, stop: threading.Event) -> None:
        raise IdaError("the device [mps] cannot be used", "set device=cpu")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await wait_until_finished(app, pilot, start_live_run(app, fail_to_start))
        assert isinstance(app.screen, ErrorDialog)
        assert "the device [mps] cannot be used" in panel_text(app)
        assert "set device=cpu" in panel_text(app)
        await pilot.press("escape")
        assert not isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_run_that_fails_before_it_is_shown_is_explained_too() -> None:
    def fail_to_start(log: EventLog, stop: threading.Event) -> None:
        raise IdaError("no such device")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("run"), fail_to_start)
        session.start()
        session.join(PATIENCE_S)
        app.run_controller.show(RunView(LiveSource(session)))
        app.run_controller.tick()
        await pilot.pause()
        assert "no such device" in panel_text(app)

    drive(scenario)


def test_a_failed_run_is_explained_once_with_its_hint_and_folder() -> None:
    def fail(log: EventLog, stop: threading.Event) -> None:
        log.emit(run_started(Path("outputs/quickstart/now")))
        log.emit(run_ended("failed", "the loss is not finite", "lower the learning rate", 1))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await wait_until_finished(app, pilot, start_live_run(app, fail))
        assert "the loss is not finite" in panel_text(app)
        assert "lower the learning rate" in panel_text(app)
        assert "outputs/quickstart/now" in panel_text(app)
        await pilot.press("escape")
        app.run_controller.tick()
        await pilot.pause()
        assert not isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_run_whose_process_died_is_explained_with_how_to_resume_it() -> None:
    def start_only(log: EventLog, stop: threading.Event) -> None:
        log.emit(run_started(Path("run")))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("run"), start_only)
        session.died = "its process was ended by SIGKILL"
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        await wait_until_finished(app, pilot, session)
        assert isinstance(app.screen, ErrorDialog)
        assert "the run died: it was killed, or crashed in a library" in panel_text(app)
        assert "its process was ended by SIGKILL" in panel_text(app)
        assert "resume with: ida-tui resume run" in panel_text(app)

    drive(scenario)


def test_a_successful_run_opens_no_dialog() -> None:
    def finish(log: EventLog, stop: threading.Event) -> None:
        log.emit(run_started(Path("run")))
        log.emit(run_ended("done", "Training complete"))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await wait_until_finished(app, pilot, start_live_run(app, finish))
        assert app.current_mode == "run"
        assert not isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_signal_stops_a_live_run_and_the_exit_code_says_interrupted() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, until_stopped)
        await pilot.pause()
        app._on_signal()
        assert session.stop_requested
        await wait_until_finished(app, pilot, session)
        assert app.return_code == ExitCode.INTERRUPTED

    drive(scenario)


def test_many_events_are_all_read_while_keys_still_work() -> None:
    count = 20_000

    def emit_many(log: EventLog, stop: threading.Event) -> None:
        log.emit(run_started(Path("run")))
        for number in range(count):
            log.emit(ev.TokensGenerated(1, number, 1.0, 0, 64))
        log.emit(run_ended("done", "Training complete"))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = start_live_run(app, emit_many)
        await pilot.press("3")
        assert app.current_mode == "completions"
        await wait_until_finished(app, pilot, session)
        assert app.run_view is not None
        assert app.run_view.state.seq == count + 1
        assert [r.seq for r in read_events(Path("run/events.jsonl"))] == list(range(count + 2))

    drive(scenario)


def test_the_first_paint_imports_no_heavy_library() -> None:
    import subprocess
    import sys

    probe = """
import asyncio, sys
from ida_tui.tui.app import IdaApp
async def main():
    async with IdaApp().run_test(size=(120, 40)) as pilot:
        await pilot.pause()
asyncio.run(main())
heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "openai", "httpx2", "numpy"}
print(sorted(heavy & set(sys.modules)))
"""
    finish = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )

    assert finish.stdout == "[]\n"


@pytest.mark.parametrize("key", ["2", "3", "4"])
def test_text_of_a_model_or_a_judge_is_shown_literally(key: str) -> None:
    hostile = "[red]\x1b[2J\x9b31m\u202e[@click=app.quit]x[/]\x07"
    run = Path("outputs/quickstart/20260131-120000")
    run.mkdir(parents=True)
    started = replace(run_started(run, 3), model=hostile, judge=hostile, experiment=hostile)
    step_with_hostile_text = (
        replace(event, text=hostile, prompt=hostile, prompt_id=hostile)
        if isinstance(event, ev.CompletionFinished)
        else replace(event, reason=hostile, judge=hostile)
        if isinstance(event, ev.CompletionScored)
        else event
        for event in step_events(1, 3)
    )
    final_events = (ev.AlertRaised(1, hostile, hostile, hostile), ev.RunPaused(1, hostile, hostile))
    records = (
        ev.Record(n, ev.current_timestamp(), e)
        for n, e in enumerate((started, *step_with_hostile_text, *final_events))
    )
    (run / "events.jsonl").write_text("".join(codec.encode(record) + "\n" for record in records))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.open(run.absolute())
        await settled(app, pilot)
        await pilot.press(key)
        await settled(app, pilot)
        app.notify(hostile)
        await pilot.pause()
        text = text_on_screen(app)
        assert "[red]?[2J" in text
        assert text.replace("\n", "").isprintable()

    drive(scenario)
