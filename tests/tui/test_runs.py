"""The runs screen: past runs, runs of other processes, and opening them."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from ida_tui.config.scoring.axes import Axis
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import SILENT_READS, AttachedSource, LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.runs import format_start_time
from tests.support.app_driver import NOON, SMALL, WIDE, drive, notified, settled, text_on_screen
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import ScriptedSession, until_stopped
from tests.support.synthetic_run import started_with, write


async def open_runs_screen(app: IdaApp, pilot: Pilot[None]) -> DataTable[object]:
    await app.action_go("runs")
    await settled(app, pilot)
    return app.screen.query_one("#runs", DataTable)


def write_three_runs() -> None:
    write(Path("outputs/quickstart/20260101-000000/events.jsonl"), steps=5)
    write(Path("outputs/quickstart/20260102-000000/events.jsonl"), steps=2)
    broken = Path("outputs/dev-mps/20260103-000000/events.jsonl")
    broken.parent.mkdir(parents=True)
    broken.write_text("")


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_runs_are_listed_with_their_status(size: tuple[int, int]) -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await open_runs_screen(app, pilot)
        assert table.row_count == 3
        text = text_on_screen(app)
        assert "✓ done" in text
        assert "5/5" in text
        assert "✗ unreadable" in text

    drive(scenario, size=size)


def test_the_details_of_a_run_without_a_judge_name_none() -> None:
    started = replace(started_with((Axis("f", "computed", 0.0, 1.0),), 2, "reward"), judge="")
    events = Path("outputs/quickstart/20260101-000000/events.jsonl")
    write(events, steps=2, started=started, kind="")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
        details = str(app.screen.query_one("#run-details", Static).render())
        assert started.model in details
        assert "judged by" not in details

    drive(scenario)


def test_without_runs_the_screen_says_how_to_start_one() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
        assert "No runs in outputs yet" in text_on_screen(app)
        app.screen.set_focus(None)
        await pilot.press("enter")
        assert "There is no run to open." in notified(app)

    drive(scenario)


def test_enter_opens_a_run_at_its_end_and_earlier_steps_can_be_viewed() -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
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


def test_an_unreadable_run_shows_the_reason_and_is_not_opened() -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
        await pilot.press("slash", *"dev-mps", "enter")
        await pilot.pause()
        assert "events.jsonl contains no events" in text_on_screen(app)
        await pilot.press("enter")
        assert "Could not read this run" in notified(app)
        assert app.current_mode == "runs"

    drive(scenario)


def test_a_run_with_a_broken_line_opens_an_error_dialog() -> None:
    write_three_runs()
    path = Path("outputs/quickstart/20260101-000000/events.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[40] = b"{broken\n"
    path.write_bytes(b"".join(lines))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.open(path.parent)
        await settled(app, pilot)
        assert "events.jsonl:41" in str([str(w.render()) for w in app.screen.query(Static)])

    drive(scenario)


def test_a_filter_without_matches_says_so_and_escape_shows_all_runs() -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await open_runs_screen(app, pilot)
        await pilot.press("slash", *"zzz")
        await pilot.pause()
        assert table.row_count == 0
        assert "No match for “zzz”" in text_on_screen(app)
        await pilot.press("escape")
        await pilot.pause()
        assert table.row_count == 3
        assert app.current_mode == "runs"

    drive(scenario)


def test_reloading_shows_new_runs_and_preserves_the_cursor() -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await open_runs_screen(app, pilot)
        await pilot.press("j", "j")
        details_before = app.screen.query_one("#run-details", Static).render()
        write(Path("outputs/another/20260104-000000/events.jsonl"), steps=1)
        await pilot.press("r")
        await settled(app, pilot)
        assert table.row_count == 4
        assert str(app.screen.query_one("#run-details", Static).render()) == str(details_before)

    drive(scenario)


def test_w_writes_the_report_of_the_selected_run_and_shows_its_path() -> None:
    write_three_runs()

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
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
        assert "has no events yet" in notified(app)

    drive(scenario)


def test_the_run_of_this_process_is_marked_and_enter_opens_its_screen() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("outputs/quickstart/run"), until_stopped)
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        while app.run_view is None or app.run_view.state.run is None:
            app.run_controller.tick()
            await pilot.pause()
        first = app.run_view
        await open_runs_screen(app, pilot)
        assert "live (this app)" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        assert app.current_mode == "run"
        assert app.run_view is first
        session.request_stop()
        session.join(PATIENCE_S)

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

    def finish_next_step() -> None:
        assert trainer.stdin is not None
        trainer.stdin.write("\n")
        trainer.stdin.flush()

    async def wait_for_steps(app: IdaApp, pilot: Pilot[None], steps: int, *, ended: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            app.run_controller.tick()
            await pilot.pause()
            state = app.run_view.state if app.run_view else None
            if state and len(state.steps) >= steps and (state.ended is not None) == ended:
                return
        raise AssertionError(f"not {steps} steps within the time")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
        assert "● live" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        assert app.run_view is not None
        assert app.run_view.source.kind == "attached"
        assert "live (other process)" in text_on_screen(app)
        await wait_for_steps(app, pilot, 1, ended=False)
        finish_next_step()
        await wait_for_steps(app, pilot, 2, ended=False)
        assert "Step 2/3" in text_on_screen(app)
        finish_next_step()
        finish_next_step()
        await wait_for_steps(app, pilot, 3, ended=True)
        assert "Training complete" in text_on_screen(app)

    try:
        drive(scenario)
    finally:
        trainer.kill()
        trainer.communicate()


@pytest.mark.parametrize("end", [b"", b"no event\n"])
def test_garbage_is_collected_again_after_a_run_was_read_or_could_not_be(end: bytes) -> None:
    path = Path("outputs/quickstart/20260105-000000/events.jsonl")
    write(path, steps=2)
    with open(path, "ab") as file:
        file.write(end)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.run_controller.open(path.parent)
        await settled(app, pilot)
        assert (app.run_view is None) == bool(end)
        assert gc.isenabled()

    drive(scenario)


def test_a_followed_run_whose_process_is_killed_is_shown_as_died() -> None:
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
        text = "\n".join(str(w.render()) for w in app.screen.query(Static))
        assert "could not read new events of the run" in text

    drive(scenario)


def test_a_run_whose_process_is_gone_is_shown_as_died_with_its_last_step() -> None:
    path = Path("outputs/quickstart/20260105-000000/events.jsonl")
    write(path, steps=4)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-20]))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_runs_screen(app, pilot)
        assert "✗ died" in text_on_screen(app)
        await pilot.press("enter")
        await settled(app, pilot)
        text = text_on_screen(app)
        assert "died while" in text
        assert "Step 3/4" in text

    drive(scenario)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-31T09:05:00.000Z", "today 09:05"),
        ("2026-01-30T23:59:00.000Z", "yesterday 23:59"),
        ("2025-12-24T18:00:00.000Z", "2025-12-24 18:00"),
        ("", "unknown"),
    ],
)
def test_start_times_are_relative_to_today(
    timestamp: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    assert format_start_time(timestamp, NOON) == expected


def test_the_newest_of_many_runs_are_listed_first_and_the_rest_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summaries = [
        RunSummary(Path(f"o/e/{n}"), "e", str(n), "2026-01-01", "done") for n in range(1500)
    ]
    monkeypatch.setattr("ida_tui.tui.screens.runs.list_runs", lambda _: summaries)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await open_runs_screen(app, pilot)
        await pilot.app.workers.wait_for_complete()
        assert table.row_count == 1500
        app.screen._show()
        assert table.row_count == 100
        await pilot.app.workers.wait_for_complete()
        assert table.row_count == 1500

    drive(scenario)
