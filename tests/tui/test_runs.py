"""The runs screen: past runs, one that another process trains, and opening them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import SILENT_READS, AttachedSource, LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.runs import format_start_time
from tests.support.app_driver import NOON, SMALL, WIDE, drive, notified, settled, text_on_screen
from tests.support.scripted_session import ScriptedSession, until_stopped
from tests.support.synthetic_run import write


async def to_the_runs(app: IdaApp, pilot: Pilot[None]) -> DataTable[object]:
    await app.action_go("runs")
    await settled(app, pilot)
    return app.screen.query_one("#runs", DataTable)


def three_runs() -> None:
    write(Path("outputs/quickstart/20260101-000000/events.jsonl"), steps=5)
    write(Path("outputs/quickstart/20260102-000000/events.jsonl"), steps=2)
    broken = Path("outputs/dev-mps/20260103-000000/events.jsonl")
    broken.parent.mkdir(parents=True)
    broken.write_text("")


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_runs_are_listed_with_how_they_went(size: tuple[int, int]) -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await to_the_runs(app, pilot)
        assert table.row_count == 3
        shown = text_on_screen(app)
        assert "✓ done" in shown
        assert "5/5" in shown
        assert "✗ unreadable" in shown

    drive(scenario, size=size)


def test_where_there_are_no_runs_the_screen_says_how_to_start_one() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        assert "No runs in outputs yet" in text_on_screen(app)
        app.screen.set_focus(None)
        await pilot.press("enter")
        assert "There is no run to open." in notified(app)

    drive(scenario)


def test_enter_opens_a_run_at_its_end_and_its_steps_can_be_looked_at() -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        await pilot.press("slash", *"0101", "enter")
        await pilot.pause()
        await pilot.press("g", "enter")
        await settled(app, pilot)
        assert app.current_mode == "run"
        assert app.run_view is not None
        assert app.run_view.source.kind == "replay"
        assert "Training complete" in text_on_screen(app)
        await pilot.press("left_square_bracket", "left_square_bracket")
        await pilot.pause()
        assert app.run_view.displayed_state.steps[-1].step == 4
        assert "viewing" in text_on_screen(app)

    drive(scenario)


def test_a_run_that_cannot_be_read_says_why_and_is_not_opened() -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        await pilot.press("slash", *"dev-mps", "enter")
        await pilot.pause()
        assert "events.jsonl contains no events" in text_on_screen(app)
        await pilot.press("enter")
        assert "Could not read this run" in notified(app)
        assert app.current_mode == "runs"

    drive(scenario)


def test_a_run_with_a_broken_line_is_explained_in_a_panel() -> None:
    three_runs()
    path = Path("outputs/quickstart/20260101-000000/events.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[40] = b"{broken\n"
    path.write_bytes(b"".join(lines))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.open(path.parent)
        await settled(app, pilot)
        assert "events.jsonl:41" in str([str(w.render()) for w in app.screen.query(Static)])

    drive(scenario)


def test_a_filter_that_matches_nothing_says_so_and_escape_shows_all() -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await to_the_runs(app, pilot)
        await pilot.press("slash", *"zzz")
        await pilot.pause()
        assert table.row_count == 0
        assert "No match for “zzz”" in text_on_screen(app)
        await pilot.press("escape")
        await pilot.pause()
        assert table.row_count == 3
        assert app.current_mode == "runs"

    drive(scenario)


def test_reading_again_shows_what_is_new_and_keeps_the_cursor() -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await to_the_runs(app, pilot)
        await pilot.press("j", "j")
        before = app.screen.query_one("#run-details", Static).render()
        write(Path("outputs/another/20260104-000000/events.jsonl"), steps=1)
        await pilot.press("r")
        await settled(app, pilot)
        assert table.row_count == 4
        assert str(app.screen.query_one("#run-details", Static).render()) == str(before)

    drive(scenario)


def test_w_writes_the_report_of_the_run_under_the_cursor_and_says_where_it_lies() -> None:
    three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        await pilot.press("slash", *"0101", "enter")
        await pilot.pause()
        await pilot.press("w")
        await settled(app, pilot)
        assert "Report: outputs/quickstart/20260101-000000/report.html" in notified(app)
        assert "5 of 5" in Path("outputs/quickstart/20260101-000000/report.html").read_text()
        await pilot.press("escape", "slash", *"dev-mps", "enter")
        await pilot.pause()
        await pilot.press("w")
        await settled(app, pilot)
        assert "holds no event yet" in notified(app)

    drive(scenario)


def test_the_run_of_this_process_is_marked_and_leads_to_its_screen() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("outputs/quickstart/run"), until_stopped)
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        while app.run_view is None or app.run_view.state.run is None:
            app.run_controller.tick()
            await pilot.pause()
        first = app.run_view
        await to_the_runs(app, pilot)
        assert "live (this app)" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        assert app.current_mode == "run"
        assert app.run_view is first
        session.request_stop()
        session.join(30)

    drive(scenario)


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.writer import EventLog
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import step_events
directory = RunDirectory(Path("outputs/quickstart/20260105-000000"))
directory.path.mkdir(parents=True)
with EventLog(directory) as log, owner.owned_run(directory):
    log.emit(run_started(directory.path, 3))
    for step in (1, 2, 3):
        for event in step_events(step, 3):
            log.emit(event)
        print(step, flush=True)
        sys.stdin.readline()
    log.emit(run_ended("done", "Training complete"))
"""


def test_a_run_of_another_process_is_followed_to_its_end() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "1\n"

    def go_on() -> None:
        assert trainer.stdin is not None
        trainer.stdin.write("\n")
        trainer.stdin.flush()

    async def until(app: IdaApp, pilot: Pilot[None], steps: int, *, ended: bool) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            app.run_controller.tick()
            await pilot.pause()
            state = app.run_view.state if app.run_view else None
            if state and len(state.steps) >= steps and (state.ended is not None) == ended:
                return
        raise AssertionError(f"not {steps} steps within the time")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        assert "● live" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        assert app.run_view is not None
        assert app.run_view.source.kind == "attached"
        assert "live (other process)" in text_on_screen(app)
        await until(app, pilot, 1, ended=False)
        go_on()
        await until(app, pilot, 2, ended=False)
        assert "Step 2/3" in text_on_screen(app)
        go_on()
        go_on()
        await until(app, pilot, 3, ended=True)
        assert "Training complete" in text_on_screen(app)

    try:
        drive(scenario)
    finally:
        trainer.kill()
        trainer.communicate()


def test_a_run_whose_process_dies_while_it_is_followed_has_died() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "1\n"

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.open(Path("outputs/quickstart/20260105-000000"))
        await settled(app, pilot)
        assert app.run_view is not None
        trainer.kill()
        trainer.communicate()
        for _ in range(2 * SILENT_READS):
            app.run_controller.tick()
        await pilot.pause()
        assert not app.run_view.in_progress
        assert "· died" in text_on_screen(app)

    drive(scenario)


def test_a_run_that_can_no_longer_be_followed_is_explained() -> None:
    path = Path("outputs/quickstart/20260105-000000/events.jsonl")
    write(path, steps=2)
    source = AttachedSource(RunDirectory(path.parent), path.stat().st_size)
    with open(path, "ab") as file:
        file.write(b"no event\n")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.show(RunView(source))
        app.run_controller.tick()
        await pilot.pause()
        said = "\n".join(str(w.render()) for w in app.screen.query(Static))
        assert "could not read new events of the run" in said

    drive(scenario)


def test_a_run_whose_process_is_gone_has_died_and_shows_where_it_got_to() -> None:
    path = Path("outputs/quickstart/20260105-000000/events.jsonl")
    write(path, steps=4)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-20]))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await to_the_runs(app, pilot)
        assert "✗ died" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        shown = text_on_screen(app)
        assert "died while" in shown
        assert "Step 3/4" in shown

    drive(scenario)


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-01-31T09:05:00.000Z", "today 09:05"),
        ("2026-01-30T23:59:00.000Z", "yesterday 23:59"),
        ("2025-12-24T18:00:00.000Z", "2025-12-24 18:00"),
        ("", "unknown"),
    ],
)
def test_a_time_is_said_as_a_person_says_it(
    moment: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    assert format_start_time(moment, NOON) == said


def test_of_thousands_of_runs_the_newest_are_there_at_once_and_then_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = [RunSummary(Path(f"o/e/{n}"), "e", str(n), "2026-01-01", "done") for n in range(1500)]
    monkeypatch.setattr("ida_tui.tui.screens.runs.list_runs", lambda _: many)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await to_the_runs(app, pilot)
        await pilot.app.workers.wait_for_complete()
        assert table.row_count == 1500
        app.screen._show()
        assert table.row_count == 100
        await pilot.app.workers.wait_for_complete()
        assert table.row_count == 1500

    drive(scenario)
