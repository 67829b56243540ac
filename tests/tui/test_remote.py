"""The app with a run of another machine, of which it shows a copy."""

from __future__ import annotations

import queue
from pathlib import Path

from textual.pilot import Pilot

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.writer import EventLog
from ida_tui.tui.app import IdaApp
from ida_tui.tui.main import RemoteRun
from ida_tui.tui.remote import LOCAL_ACTIONS, RemoteApp
from tests.support.app_driver import NOON, drive, notified, text_on_screen
from tests.support.scripted_session import run_ended, run_started

ADDRESS = "ssh://gpu-box/runs/run-1"


def test_a_run_of_another_machine_is_shown_with_its_address() -> None:
    copy = RunDirectory(Path("copy").absolute())
    copy.logs.mkdir(parents=True)
    with EventLog(copy) as log:
        log.emit(run_started(Path("/runs/run-1")))
        log.emit(run_ended("done", "Training complete"))
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        assert isinstance(app, RemoteApp)
        assert ADDRESS in text_on_screen(app)
        assert str(copy.path) not in text_on_screen(app)
        assert not [action for action in LOCAL_ACTIONS if app.allows(action, ())]

        messages.put("! the connection to gpu-box is lost (no route); trying again")
        while "gpu-box is lost" not in notified(app):
            await pilot.pause(0.01)

    remote = RemoteRun(copy.path, ADDRESS, messages)
    drive(scenario, app=RemoteApp(remote, clock=lambda: NOON))
