"""The dialog of a live run that is paused because of its judge."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from ida_tui.engine.run.control import ResumeDecision
from ida_tui.events import types as ev
from ida_tui.runs.log.writer import EventLog
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.launch.judge_check import JudgeCheckDialog
from ida_tui.tui.screens.paused import PausedDialog
from tests.support.app_driver import SMALL, WIDE, drive, panel_text, settled, text_on_screen
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import ScriptedSession, run_ended, run_started

REASON = "the judge gpt-4o-mini rejected the API key"
PAUSED = ev.RunPaused(step=4, reason=REASON, hint="export OPENAI_API_KEY=sk-...")


class PausingSession(ScriptedSession):
    """A session whose run pauses immediately and ends when it is resumed or stopped."""

    def __init__(self, budget: float | None = None, paused: ev.RunPaused = PAUSED) -> None:
        super().__init__(Path("run"), self._emit_pause)
        self._paused = paused
        self.budget = budget
        self.decisions: queue.SimpleQueue[ResumeDecision] = queue.SimpleQueue()

    def resume_with(self, decision: ResumeDecision) -> None:
        self.decisions.put(decision)
        self._control.stop.set()

    def _emit_pause(self, log: EventLog, stop: threading.Event) -> None:
        log.emit(run_started(Path("run")))
        log.emit(ev.PhaseChanged(5, "judge"))
        log.emit(self._paused)
        stop.wait()
        log.emit(run_ended("interrupted", "Stopped after step 4 of 40", code=130))


async def open_paused_dialog(app: IdaApp, pilot: Pilot[None], session: PausingSession) -> None:
    """Starts the session and waits for the dialog."""
    session.start()
    app.run_controller.show(RunView(LiveSource(session)))
    while not isinstance(app.screen, PausedDialog):
        app.run_controller.tick()
        await pilot.pause()


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_the_dialog_shows_the_error_and_the_options(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession()
        await open_paused_dialog(app, pilot, session)
        await settled(app, pilot)
        text = text_on_screen(app)
        assert "Paused after step 4" in text
        assert "export OPENAI_API_KEY" in text
        assert "Try again" in text
        await pilot.press("s")
        session.join(PATIENCE_S)

    drive(scenario, size=size)


def test_failed_reward_functions_are_not_called_the_judge() -> None:
    paused = ev.RunPaused(4, "9 of 16 completions have no reward", functions_failed=True)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_paused_dialog(app, pilot, PausingSession(budget=1.0, paused=paused))
        options = app.screen.query_one(OptionList).options
        assert [str(option.prompt) for option in options] == [
            "r  Try again (imports the reward functions again)",
            "s  Stop, and resume later",
        ]
        await pilot.press("s")

    drive(scenario)


def test_r_resumes_with_the_same_judge() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession()
        await open_paused_dialog(app, pilot, session)
        await pilot.press("r")
        decision = session.decisions.get(timeout=PATIENCE_S)
        assert decision == ResumeDecision(session.judge, None, None)
        session.join(PATIENCE_S)

    drive(scenario)


def test_another_judge_without_its_key_shows_an_error_and_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession()
        await open_paused_dialog(app, pilot, session)
        options = app.screen.query_one(OptionList)
        options.highlighted = options.get_option_index("judge:gpt-4o-mini")
        await pilot.press("enter")
        assert isinstance(app.screen, PausedDialog)
        assert "OPENAI_API_KEY is not set" in panel_text(app)

        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
        await pilot.press("enter")
        decision = session.decisions.get(timeout=PATIENCE_S)
        assert (decision.judge.model, decision.key) == ("gpt-4o-mini", "sk-test-0123456789")
        session.join(PATIENCE_S)

    drive(scenario)


def test_an_existing_budget_can_be_raised() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession(budget=0.5)
        await open_paused_dialog(app, pilot, session)
        options = app.screen.query_one(OptionList)
        options.highlighted = options.get_option_index("budget")
        await pilot.press("enter")
        assert session.decisions.get(timeout=PATIENCE_S).budget == 1.0
        session.join(PATIENCE_S)

    drive(scenario)


def test_s_stops_the_run() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession()
        await open_paused_dialog(app, pilot, session)
        await pilot.press("s")
        session.join(PATIENCE_S)
        assert session.stop_requested
        assert session.decisions.empty()

    drive(scenario)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_c_checks_the_judge_of_the_chosen_experiment(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.screen.set_focus(None)
        await pilot.press("c")
        await settled(app, pilot)
        assert isinstance(app.screen, JudgeCheckDialog)
        assert "GRPO would learn to answer harmless requests" in text_on_screen(app)
        await pilot.press("escape")
        assert not isinstance(app.screen, JudgeCheckDialog)

    drive(scenario, size=size)
