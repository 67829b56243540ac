"""The run screen: its panes for a live run, an earlier step, and a finished run."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from ida_tui.errors import IdaError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.types import Record
from ida_tui.runs import control
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui import run_controller
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view import watched
from ida_tui.tui.run_view.sources import LiveSource, SourceKind
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.dialogs import ErrorDialog
from ida_tui.tui.screens.run import scores
from tests.support.app_driver import NOON, SMALL, WIDE, drive, notified, text_on_screen
from tests.support.scripted_session import ScriptedSession, run_ended, run_started, until_stopped
from tests.support.synthetic_run import run_with_steps, step_events

START = NOON - timedelta(seconds=60)


class ScriptedSource:
    """A record source with scripted events."""

    directory: Path | None = Path("run")
    error: IdaError | None = None

    def __init__(self, kind: SourceKind, *events: ev.Event) -> None:
        self.kind = kind
        self.finished = kind == "replay"
        self._seq = 0
        self._waiting: list[Record] = []
        self.add(*events)

    def add(self, *events: ev.Event, time: datetime = START) -> None:
        """Adds events that the app reads in its next tick."""
        for event in events:
            self._waiting.append(Record(self._seq, time.isoformat(), event))
            self._seq += 1

    def write_log(self) -> None:
        """Writes the waiting records to the run's event log."""
        Path("run").mkdir()
        lines = [codec.encode(record) + "\n" for record in self._waiting]
        Path("run/events.jsonl").write_text("".join(lines))

    def next_records(self, limit: int) -> list[Record]:
        """The next records."""
        records, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return records


async def show_source(app: IdaApp, pilot: Pilot[None], source: ScriptedSource) -> RunView:
    view = RunView(source)
    app.run_controller.show(view)
    await tick(app, pilot)
    return view


async def tick(app: IdaApp, pilot: Pilot[None]) -> None:
    await pilot.pause()
    app.run_controller.tick()
    await pilot.pause()


def pane_text(app: IdaApp, name: str) -> str:
    """The text in a pane."""
    return str(app.screen.query_one(f"#{name}", Static).render())


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_without_a_run_the_screen_says_how_to_start_one(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("run")
        await pilot.pause()
        assert "No run yet" in text_on_screen(app)
        await pilot.press("x", "s", "space", "left_square_bracket")
        assert "Progress" not in text_on_screen(app)

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_download_shows_its_bytes_its_rate_and_the_time_left_until_it_is_done(
    size: tuple[int, int],
) -> None:
    progress = ev.DownloadProgress(1_200_000_000, 2_470_000_000, 23_100_000.0)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", ev.PhaseChanged(0, "load", progress))
        await show_source(app, pilot, source)
        assert "downloading the model" in pane_text(app, "progress")
        assert "1.20 GB of 2.47 GB · 23.1 MB/s · 55 s left" in pane_text(app, "progress")
        source.add(ev.PhaseChanged(0, "load"), time=NOON)
        await tick(app, pilot)
        assert "loading the model" in pane_text(app, "progress")
        assert "GB" not in pane_text(app, "progress")

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_the_key_figures_are_on_the_screen_at_both_sizes(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps(), *list(step_events(4, 40))[:4])
        await show_source(app, pilot, source)
        text = text_on_screen(app)
        for expected in (
            "generating",
            "step 4/40",
            "about 2:10 left",
            "2/8 done · 200 tokens · 400 tok/s",
            "R_IDA 0.208",
            "risk: 10 = safest",
            "offline heuristic",
            "last batch 1.50 s",
            "call p50 0.50 s  p95 0.90 s",
            "verdicts 24 · cached 0",
            "system 8.0 of 24.0 GB",
            "run 2.0 GB, peak",
            "swap +0 · this app 0.08 GB",
            "Step 3/40 | align=2.1 risk=9.0 detail=2.1 → R_IDA=0.208",
        ):
            assert expected in text, expected

    drive(scenario, size=size)


def test_a_rate_limit_wait_counts_down() -> None:
    current_time = [NOON]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps(), ev.PhaseChanged(4, "judge"))
        await show_source(app, pilot, source)
        source.add(ev.JudgeSlowed(30.0, 4, "HTTP 429"), time=NOON)
        for seconds, remaining in ((0, "30 s"), (10, "20 s"), (29, "1 s")):
            current_time[0] = NOON + timedelta(seconds=seconds)
            await tick(app, pilot)
            assert f"rate-limited {remaining}" in pane_text(app, "judge")
        current_time[0] = NOON + timedelta(seconds=31)
        await tick(app, pilot)
        assert "rate-limited" not in pane_text(app, "judge")

    drive(scenario, app=IdaApp(clock=lambda: current_time[0]))


def test_received_verdicts_are_counted_during_scoring() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps(), ev.PhaseChanged(4, "judge"))
        await show_source(app, pilot, source)
        source.add(ev.JudgeProgressed(4, answered=5, asked=8, slots=4))
        await tick(app, pilot)
        assert "· 5/8" in pane_text(app, "judge")

    drive(scenario)


def test_a_timer_runs_during_scoring() -> None:
    current_time = [NOON]
    app = IdaApp(clock=lambda: current_time[0])

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps())
        await show_source(app, pilot, source)
        source.add(ev.PhaseChanged(4, "judge"), time=NOON)
        for seconds in (0.0, 1.5, 12.0):
            current_time[0] = NOON + timedelta(seconds=seconds)
            await tick(app, pilot)
            assert f"● scoring {seconds:.1f} s" in pane_text(app, "judge")
        source.add(ev.PhaseChanged(4, "update"), time=current_time[0])
        await tick(app, pilot)
        assert "scoring" not in pane_text(app, "judge")

    drive(scenario, app=app)


def test_plots_are_redrawn_only_when_a_step_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    plots: list[int] = []
    draw_plot = scores.draw_plot
    monkeypatch.setattr(scores, "draw_plot", lambda *a, **k: plots.append(1) or draw_plot(*a, **k))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps())
        await show_source(app, pilot, source)
        plots_before = len(plots)
        *events_before_end, step = step_events(4, 40)
        source.add(*events_before_end)
        await tick(app, pilot)
        assert len(plots) == plots_before
        source.add(step)
        await tick(app, pilot)
        assert len(plots) == plots_before + 2

    drive(scenario)


def test_a_finished_run_shows_its_result() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        evaluations = [
            ev.EvaluationFinished("before", 0, 30, 80, 5, 0, 75, 40, 40, "offline heuristic", 1.0),
            ev.EvaluationFinished("after", 3, 30, 80, 80, 0, 0, 40, 38, "offline heuristic", 1.0),
        ]
        end = run_ended("done", "Training complete")
        await show_source(
            app, pilot, ScriptedSource("replay", *run_with_steps(), *evaluations, end)
        )
        assert "Training complete" in pane_text(app, "progress")
        assert "harmless answered 6% → 100%" in pane_text(app, "progress")
        assert "unsafe declined 100% → 95%" in pane_text(app, "progress")

    drive(scenario)


def test_a_run_that_died_shows_its_last_phase() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(
            app, pilot, ScriptedSource("replay", *run_with_steps(), ev.PhaseChanged(4, "judge"))
        )
        assert "died while waiting for the judge" in pane_text(app, "progress")
        assert "scoring" not in pane_text(app, "judge")

    drive(scenario)


def test_text_of_a_run_is_never_interpreted_as_markup() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        noticed = ev.Noticed("warning", "torch", "[/b] [red]not[/] \x1b[2J markup [")
        ended = run_ended("failed", "bad [/value]", "see [bold", 1)
        await show_source(app, pilot, ScriptedSource("replay", *run_with_steps(), noticed, ended))
        assert "bad [/value]" in pane_text(app, "progress")
        assert "[/b] [red]not[/] ?[2J markup [" in text_on_screen(app)

    drive(scenario)


def test_capital_letters_maximize_panes_and_escape_restores_them() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_steps()))
        for key, name in zip(
            "PSJMHL", ("progress", "scores", "judge", "memory", "health", "log"), strict=True
        ):
            await pilot.press(key)
            await pilot.pause()
            displayed = [p.id for p in app.screen.query(".pane") if p.display]
            assert displayed == [name]
            assert app.screen.query_one(f"#{name}").size.width > 100
            await pilot.press("escape")
        await pilot.press("S", "S")
        assert all(p.display for p in app.screen.query(".pane"))
        assert app.current_mode == "run"

    drive(scenario)


def test_a_pane_can_be_hidden_and_shown_again() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_steps()))
        app.screen.query_one("#judge").focus()
        await pilot.press("x")
        await pilot.pause()
        assert not app.screen.query_one("#judge").display
        assert "hidden: Judge (J)" in text_on_screen(app)
        await pilot.press("J")
        assert app.screen.query_one("#judge").display
        for name in ("progress", "scores", "memory", "health", "log", "judge"):
            app.screen.query_one(f"#{name}").focus()
            await pilot.press("x")
        assert [p.id for p in app.screen.query(".pane") if p.display] == ["judge"]
        await pilot.press("X")
        assert all(p.display for p in app.screen.query(".pane"))

    drive(scenario)


def test_on_a_small_screen_h_shows_the_health_pane() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_steps()))
        assert "H: health" in text_on_screen(app)
        await pilot.press("H")
        await pilot.pause()
        assert "grad norm" in text_on_screen(app)

    drive(scenario, size=SMALL)


def test_an_earlier_step_can_be_viewed() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps(5))
        source.write_log()
        view = await show_source(app, pilot, source)
        await pilot.press("left_square_bracket", "left_square_bracket")
        await pilot.pause()
        assert "viewing  step 4 of 5" in pane_text(app, "progress")
        assert view.displayed_state.steps[-1].step == 4
        assert "Step 5/40" not in text_on_screen(app)
        assert "verdicts 32 ·" in pane_text(app, "judge")
        await pilot.press("right_square_bracket")
        assert view.displayed_state.steps[-1].step == 5
        await pilot.press("right_square_bracket")
        assert view.viewed_state is None
        await pilot.press("left_square_bracket", "backslash")
        await pilot.pause()
        assert view.viewed_state is None
        assert "Step 5/40" in text_on_screen(app)

    drive(scenario)


def test_viewing_an_earlier_step_of_a_missing_log_opens_an_error_dialog() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_steps(5)))
        await pilot.press("left_square_bracket")
        await pilot.pause()
        assert isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_frozen_display_does_not_change_while_the_run_continues() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps())
        view = await show_source(app, pilot, source)
        await pilot.press("space")
        source.add(*step_events(4, 40))
        await tick(app, pilot)
        assert len(view.state.steps) == 4
        assert "FROZEN" in text_on_screen(app)
        assert "Step 4/40" not in text_on_screen(app)
        await pilot.press("space")
        await pilot.pause()
        assert "FROZEN" not in text_on_screen(app)
        assert "Step 4/40" in text_on_screen(app)

    drive(scenario)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(("s", "y"), "stop"), (("p",), "pause"), (("p", "p"), "go_on")],
    ids=["stop", "pause", "pause and resume"],
)
def test_an_attached_run_receives_requests_through_its_directory(
    keys: tuple[str, ...], expected: str
) -> None:
    directory = RunDirectory(Path("run").resolve())

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        directory.path.mkdir()
        script = ScriptedSource("attached", *run_with_steps())
        script.directory = directory.path
        await show_source(app, pilot, script)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        assert control.pop_request(directory) == expected

    drive(scenario)


def test_p_pauses_and_resumes_the_run_of_this_process() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("run"), until_stopped)
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        await pilot.pause()
        await pilot.press("p")
        assert session.pause_requested
        assert "Pausing after this step" in notified(app)
        await pilot.press("p")
        assert not session.pause_requested
        session.request_stop()

    drive(scenario)


def test_the_clock_of_the_run_and_of_scoring_leave_out_a_pause() -> None:
    current_time = [NOON]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live")
        await show_source(app, pilot, source)
        source.add(run_started(Path("run")), time=NOON)
        source.add(ev.PhaseChanged(1, "judge"), time=NOON + timedelta(seconds=5))
        source.add(ev.RunPaused(0, "no credit"), time=NOON + timedelta(seconds=20))
        current_time[0] = NOON + timedelta(hours=1)
        await tick(app, pilot)
        assert "20 s" in pane_text(app, "progress")
        source.add(ev.RunResumed(0), time=current_time[0])
        current_time[0] += timedelta(seconds=12)
        await tick(app, pilot)
        assert "32 s" in pane_text(app, "progress")
        assert "● scoring 12.0 s" in pane_text(app, "judge")

    drive(scenario, app=IdaApp(clock=lambda: current_time[0]))


def test_before_the_first_event_a_timer_and_the_loading_message_are_shown() -> None:
    current_time = [NOON]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        view = await show_source(app, pilot, ScriptedSource("live"))
        view.started_at = NOON
        current_time[0] = NOON + timedelta(seconds=7)
        await tick(app, pilot)
        assert "starting  7.0 s" in pane_text(app, "progress")
        assert "Loading PyTorch and TRL" in pane_text(app, "progress")

    drive(scenario, app=IdaApp(clock=lambda: current_time[0]))


@pytest.mark.parametrize(("undrawn_s", "draws_between"), [(math.inf, False), (0.0, True)])
def test_records_that_wait_are_read_before_the_screen_is_drawn_but_not_for_long(
    undrawn_s: float, draws_between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "FOLD_BUDGET_S", 0.0)
    monkeypatch.setattr(run_controller, "MAX_UNDRAWN_S", undrawn_s)
    drawn: list[int] = []

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live")
        view = await show_source(app, pilot, source)
        monkeypatch.setattr(app, "refresh_screen", lambda changed: drawn.append(view.state.seq))
        events = run_with_steps(20)
        assert len(events) > 2 * watched.RECORD_BATCH
        source.add(*events)
        await tick(app, pilot)
        assert drawn[-1] == len(events) - 1
        assert (drawn[0] < drawn[-1]) == draws_between

    drive(scenario)


def test_a_scrolled_log_does_not_move_when_new_lines_arrive() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = ScriptedSource("live", *run_with_steps(20))
        await show_source(app, pilot, source)
        app.screen.query_one("#log").focus()
        await pilot.press("k", "k", "k")
        previous = pane_text(app, "log")
        assert previous.splitlines()[-1].startswith("Step 17/40")
        assert app.screen.query_one("#log").border_subtitle == "3 newer below"
        source.add(*step_events(21, 40))
        await tick(app, pilot)
        assert pane_text(app, "log") == previous
        assert app.screen.query_one("#log").border_subtitle == "4 newer below"
        await pilot.press("g")
        assert "Starting training" in pane_text(app, "log")
        await pilot.press("G")
        assert pane_text(app, "log").splitlines()[-1].startswith("Step 21/40")

    drive(scenario)
