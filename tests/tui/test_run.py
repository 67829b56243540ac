"""The run screen: what its panes say of a run, live, looked back at, and ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from ida_tui.errors import IdaError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.types import Record
from ida_tui.runs import control
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import LiveSource, SourceKind
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.dialogs import ErrorDialog
from ida_tui.tui.screens.run import scores
from ida_tui.tui.screens.run.health import step_metrics
from ida_tui.tui.screens.run.memory import render_gauge
from ida_tui.tui.screens.run.progress import estimate_remaining_s
from tests.support.app_driver import NOON, SMALL, WIDE, drive, notified, text_on_screen
from tests.support.scripted_session import ScriptedSession, run_ended, run_started, until_stopped
from tests.support.synthetic_run import run_events, step_events

START = NOON - timedelta(seconds=60)


class Script:
    """A source that gives what it was told to."""

    directory: Path | None = Path("run")
    refusal: IdaError | None = None

    def __init__(self, kind: SourceKind, *events: ev.Event) -> None:
        self.kind = kind
        self.finished = kind == "replay"
        self._seq = 0
        self._waiting: list[Record] = []
        self.say(*events)

    def say(self, *events: ev.Event, at: datetime = START) -> None:
        """Have these events come with the next tick."""
        for event in events:
            self._waiting.append(Record(self._seq, at.isoformat(), event))
            self._seq += 1

    def keep(self) -> None:
        """Write what waits to the run's file, as an engine does."""
        Path("run").mkdir()
        lines = [codec.encode(record) + "\n" for record in self._waiting]
        Path("run/events.jsonl").write_text("".join(lines))

    def records(self, most: int) -> list[Record]:
        """The next records."""
        given, self._waiting = self._waiting[:most], self._waiting[most:]
        return given


async def put_up(app: IdaApp, pilot: Pilot[None], source: Script) -> RunView:
    watched = RunView(source)
    app.show_view(watched)
    await tick(app, pilot)
    return watched


async def tick(app: IdaApp, pilot: Pilot[None]) -> None:
    await pilot.pause()
    app.tick()
    await pilot.pause()


def begun(steps: int = 3) -> list[ev.Event]:
    """A run of forty steps, in which so many have finished."""
    events: list[ev.Event] = [ev.PhaseChanged(0, "load"), run_started(Path("run"))]
    for step in range(1, steps + 1):
        events += step_events(step, 40)
    return events


def pane(app: IdaApp, name: str) -> str:
    """The words in a pane."""
    return str(app.screen.query_one(f"#{name}", Static).render())


def state_of(events: Iterable[ev.Event]) -> RunState:
    return fold_all(Record(n, START.isoformat(), event) for n, event in enumerate(events))


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_before_there_is_a_run_the_screen_says_how_to_get_one(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("run")
        await pilot.pause()
        assert "No run yet" in text_on_screen(app)
        await pilot.press("x", "s", "space", "left_square_bracket")
        assert "Progress" not in text_on_screen(app)

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_what_matters_is_on_the_screen_at_both_sizes(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun(), *list(step_events(4, 40))[:4])
        await put_up(app, pilot, source)
        shown = text_on_screen(app)
        for words in (
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
            "this process 2.0 GB",
            "swap +0",
            "Step 3/40 | align=2.1 risk=9.0 detail=2.1 → R_IDA=0.208",
        ):
            assert words in shown, words

    drive(scenario, size=size)


def test_a_wait_that_the_judge_asks_for_counts_down() -> None:
    now = [NOON]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun(), ev.PhaseChanged(4, "judge"))
        await put_up(app, pilot, source)
        source.say(ev.JudgeSlowed(30.0, 4, "HTTP 429"), at=NOON)
        for seconds, left in ((0, "30 s"), (10, "20 s"), (29, "1 s")):
            now[0] = NOON + timedelta(seconds=seconds)
            await tick(app, pilot)
            assert f"rate-limited {left}" in pane(app, "judge")
        now[0] = NOON + timedelta(seconds=31)
        await tick(app, pilot)
        assert "rate-limited" not in pane(app, "judge")

    drive(scenario, app=IdaApp(clock=lambda: now[0]))


def test_the_verdicts_that_are_in_are_counted_while_the_judge_is_asked() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun(), ev.PhaseChanged(4, "judge"))
        await put_up(app, pilot, source)
        source.say(ev.JudgeProgressed(4, answered=5, asked=8, slots=4))
        await tick(app, pilot)
        assert "· 5/8" in pane(app, "judge")

    drive(scenario)


def test_a_timer_runs_while_the_judge_is_asked() -> None:
    now = [NOON]
    app = IdaApp(clock=lambda: now[0])

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun())
        await put_up(app, pilot, source)
        source.say(ev.PhaseChanged(4, "judge"), at=NOON)
        for seconds in (0.0, 1.5, 12.0):
            now[0] = NOON + timedelta(seconds=seconds)
            await tick(app, pilot)
            assert f"● scoring {seconds:.1f} s" in pane(app, "judge")
        source.say(ev.PhaseChanged(4, "update"), at=now[0])
        await tick(app, pilot)
        assert "scoring" not in pane(app, "judge")

    drive(scenario, app=app)


def test_plots_are_redrawn_only_when_a_step_lands(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    plot = scores.draw_plot
    monkeypatch.setattr(scores, "draw_plot", lambda *a, **k: drawn.append(1) or plot(*a, **k))

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun())
        await put_up(app, pilot, source)
        before = len(drawn)
        *until_the_end, step = step_events(4, 40)
        source.say(*until_the_end)
        await tick(app, pilot)
        assert len(drawn) == before
        source.say(step)
        await tick(app, pilot)
        assert len(drawn) == before + 2

    drive(scenario)


def test_a_run_that_is_done_shows_its_result() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        evaluations = [
            ev.EvaluationFinished("before", 0, 30, 80, 5, 0, 75, 40, 40, "offline heuristic", 1.0),
            ev.EvaluationFinished("after", 3, 30, 80, 80, 0, 0, 40, 38, "offline heuristic", 1.0),
        ]
        end = run_ended("done", "Training complete")
        await put_up(app, pilot, Script("replay", *begun(), *evaluations, end))
        assert "Training complete" in pane(app, "progress")
        assert "harmless answered 6% → 100%" in pane(app, "progress")
        assert "unsafe declined 100% → 95%" in pane(app, "progress")

    drive(scenario)


def test_a_run_that_died_says_where() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await put_up(app, pilot, Script("replay", *begun(), ev.PhaseChanged(4, "judge")))
        assert "died while waiting for the judge" in pane(app, "progress")
        assert "scoring" not in pane(app, "judge")

    drive(scenario)


def test_what_a_run_says_is_never_read_as_markup() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        noticed = ev.Noticed("warning", "torch", "[/b] [red]not[/] \x1b[2J markup [")
        ended = run_ended("failed", "bad [/value]", "see [bold", 1)
        await put_up(app, pilot, Script("replay", *begun(), noticed, ended))
        assert "bad [/value]" in pane(app, "progress")
        assert "[/b] [red]not[/] ?[2J markup [" in text_on_screen(app)

    drive(scenario)


def test_capital_letters_maximise_panes_and_escape_puts_them_back() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await put_up(app, pilot, Script("live", *begun()))
        for key, name in zip(
            "PSJMHL", ("progress", "scores", "judge", "memory", "health", "log"), strict=True
        ):
            await pilot.press(key)
            await pilot.pause()
            shown = [p.id for p in app.screen.query(".pane") if p.display]
            assert shown == [name]
            assert app.screen.query_one(f"#{name}").size.width > 100
            await pilot.press("escape")
        await pilot.press("S", "S")
        assert all(p.display for p in app.screen.query(".pane"))
        assert app.current_mode == "run"

    drive(scenario)


def test_a_pane_is_hidden_named_and_shown_again() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await put_up(app, pilot, Script("live", *begun()))
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


def test_where_there_is_little_room_health_is_a_key_away() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await put_up(app, pilot, Script("live", *begun()))
        assert "H: health" in text_on_screen(app)
        await pilot.press("H")
        await pilot.pause()
        assert "grad norm" in text_on_screen(app)

    drive(scenario, size=SMALL)


def test_looking_back_shows_the_figures_of_that_step_and_returns() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun(5))
        source.keep()
        watched = await put_up(app, pilot, source)
        await pilot.press("left_square_bracket", "left_square_bracket")
        await pilot.pause()
        assert "viewing  step 4 of 5" in pane(app, "progress")
        assert watched.displayed_state.steps[-1].step == 4
        assert "Step 5/40" not in text_on_screen(app)
        assert "verdicts 32 ·" in pane(app, "judge")
        await pilot.press("right_square_bracket")
        assert watched.displayed_state.steps[-1].step == 5
        await pilot.press("right_square_bracket")
        assert watched.viewed_state is None
        await pilot.press("left_square_bracket", "backslash")
        await pilot.pause()
        assert watched.viewed_state is None
        assert "Step 5/40" in text_on_screen(app)

    drive(scenario)


def test_looking_back_at_a_file_that_is_gone_is_explained() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await put_up(app, pilot, Script("live", *begun(5)))
        await pilot.press("left_square_bracket")
        await pilot.pause()
        assert isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_held_display_stands_still_while_the_run_goes_on() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun())
        watched = await put_up(app, pilot, source)
        await pilot.press("space")
        source.say(*step_events(4, 40))
        await tick(app, pilot)
        assert len(watched.state.steps) == 4
        assert "FROZEN" in text_on_screen(app)
        assert "Step 4/40" not in text_on_screen(app)
        await pilot.press("space")
        await pilot.pause()
        assert "FROZEN" not in text_on_screen(app)
        assert "Step 4/40" in text_on_screen(app)

    drive(scenario)


@pytest.mark.parametrize(
    ("keys", "asked"),
    [(("s", "y"), "stop"), (("p",), "pause"), (("p", "p"), "go_on")],
    ids=["stop", "pause", "pause and go on"],
)
def test_an_attached_run_is_asked_through_its_directory(keys: tuple[str, ...], asked: str) -> None:
    directory = RunDirectory(Path("run").resolve())

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        directory.path.mkdir()
        script = Script("attached", *begun())
        script.directory = directory.path
        await put_up(app, pilot, script)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        assert control.pop_request(directory) == asked

    drive(scenario)


def test_p_pauses_the_run_of_this_process_and_lets_it_go_on() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("run"), until_stopped)
        session.start()
        app.show_view(RunView(LiveSource(session)))
        await pilot.pause()
        await pilot.press("p")
        assert session.pause_requested
        assert "Pausing after this step" in notified(app)
        await pilot.press("p")
        assert not session.pause_requested
        session.request_stop()

    drive(scenario)


def test_the_remaining_time_is_known_once_a_step_has_finished() -> None:
    assert estimate_remaining_s(state_of(run_events(Path("run"), 0))) is None
    assert estimate_remaining_s(state_of(begun(3))) == pytest.approx(37 * 3.5)


def test_memory_near_the_limit_is_said_in_words() -> None:
    def said(share: float) -> str:
        return render_gauge(int(share * 48e9), 48e9, 40)[0].plain

    assert said(0.5).endswith(" 50%")
    assert said(0.86).endswith(" 86% high")
    assert said(0.97).endswith(" 97% critical")


def test_a_figure_that_is_not_known_is_a_dash() -> None:
    step = state_of(begun(1)).steps[0]

    assert dict(step_metrics(step, 0))["KL"] == "0.01"


def test_before_the_first_event_the_time_runs_and_says_what_is_loaded() -> None:
    now = [NOON]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        watched = await put_up(app, pilot, Script("live"))
        watched.started_at = NOON
        now[0] = NOON + timedelta(seconds=7)
        await tick(app, pilot)
        assert "starting  7.0 s" in pane(app, "progress")
        assert "Loading PyTorch and TRL" in pane(app, "progress")

    drive(scenario, app=IdaApp(clock=lambda: now[0]))


def test_whoever_looks_back_in_the_log_stays_there_while_lines_come_in() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = Script("live", *begun(20))
        await put_up(app, pilot, source)
        app.screen.query_one("#log").focus()
        await pilot.press("k", "k", "k")
        before = pane(app, "log")
        assert before.splitlines()[-1].startswith("Step 17/40")
        assert app.screen.query_one("#log").border_subtitle == "3 newer below"
        source.say(*step_events(21, 40))
        await tick(app, pilot)
        assert pane(app, "log") == before
        assert app.screen.query_one("#log").border_subtitle == "4 newer below"
        await pilot.press("g")
        assert "Starting training" in pane(app, "log")
        await pilot.press("G")
        assert pane(app, "log").splitlines()[-1].startswith("Step 21/40")

    drive(scenario)
