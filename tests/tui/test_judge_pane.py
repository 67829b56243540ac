"""The judge pane: a panel of judges, and the quality of the verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from ida_tui.analysis.report.tables import panel_rows
from ida_tui.events import types as ev
from ida_tui.events.narration import event_lines, summary_lines
from ida_tui.events.state import RunState
from ida_tui.tui.app import IdaApp
from ida_tui.tui.screens.run.judge import JudgePane
from tests.events.test_judge_wait import state_of, traffic
from tests.support import synthetic_run
from tests.support.app_driver import SMALL, WIDE, drive, settled, text_on_screen
from tests.support.scripted_session import run_ended
from tests.tui.test_run import ScriptedSource, show_source

MEMBERS = (ev.JudgeMember("first", 8, 8), ev.JudgeMember("second", 7, 8, "HTTP 500"))
SPREAD = {"align": 1.5, "risk": 0.0, "detail": 2.25}


def run_of_a_panel() -> list[ev.Event]:
    events = synthetic_run.run_events(Path("run"), 3, 8)
    return [
        replace(event, members=MEMBERS, spread=SPREAD)
        if isinstance(event, ev.JudgeBatchFinished)
        else event
        for event in events
        if not isinstance(event, ev.RunEnded | ev.CheckpointSaved)
    ]


def test_the_pane_shows_what_each_judge_scored_and_how_far_they_differ() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_of_a_panel()))
        text = text_on_screen(app)
        assert "7/8 second" in text

    drive(scenario, size=WIDE)


def test_the_pane_says_why_verdicts_of_the_last_batch_failed() -> None:
    failure = "the thought used up max_tokens=300: raise it, or turn thinking off"
    events = [
        replace(event, members=(), spread={}, failed=1, failure=failure)
        if isinstance(event, ev.JudgeBatchFinished)
        else event
        for event in run_of_a_panel()
    ]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *events))
        assert "the thought used up" in text_on_screen(app)

    drive(scenario, size=WIDE)


def run_with_groups(*groups: ev.GroupVerdicts, axes: bool = False) -> list[ev.Event]:
    started = synthetic_run.started_with(synthetic_run.EIGHT_AXES, 12) if axes else None
    events = [
        replace(event, judge_groups=groups) if isinstance(event, ev.StepFinished) else event
        for event in synthetic_run.run_events(Path("run"), 12, 8, started)
        if not isinstance(event, ev.RunEnded | ev.CheckpointSaved)
    ]
    return [replace(e, slots=8) if isinstance(e, ev.JudgeBatchFinished) else e for e in events]


NOISY = ev.GroupVerdicts(28, 7, repeats=8, equal=1, spread=1.6, samples=2)
QUIET = NOISY._replace(spread=0.2)


def pane_rows(app: IdaApp) -> list[str]:
    return str(app.screen.query_one("#judge", JudgePane).render()).splitlines()


@pytest.mark.parametrize("axes", [False, True])
def test_the_pane_sums_up_the_quality_of_the_verdicts_in_its_last_row(axes: bool) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_groups(QUIET, axes=axes)))
        rows = pane_rows(app)
        assert rows[6] == "repeats Δ0.2 · ties 25%"
        assert rows[3:5] == [
            "verdicts 96 · cached 0 · failed 0",
            "retries 0 · 8 parallel · coverage 8/8",
        ]
        assert "repeats Δ0.2 · ties 25%" in text_on_screen(app)

    drive(scenario, size=WIDE)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_bad_figure_is_in_sight_and_the_maximized_pane_says_what_to_do(
    size: tuple[int, int],
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_groups(NOISY)))
        assert "! repeats Δ1.6" in text_on_screen(app)
        await pilot.press("J")
        await settled(app, pilot)
        assert "judge.samples=3" in text_on_screen(app)

    drive(scenario, size=size)


def test_the_pane_of_a_run_without_such_figures_ends_with_the_cost() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_with_groups()))
        assert pane_rows(app)[-1].startswith("cost ")

    drive(scenario, size=WIDE)


def test_the_log_names_the_judge_that_missed_completions() -> None:
    batch = next(event for event in run_of_a_panel() if isinstance(event, ev.JudgeBatchFinished))
    *_, line = event_lines(RunState(), batch)
    assert line.endswith("second scored 7 of 8: HTTP 500)")


def test_the_report_adds_up_what_each_judge_scored() -> None:
    batches = [event for event in run_of_a_panel() if isinstance(event, ev.JudgeBatchFinished)]
    rows = dict(panel_rows(batches))
    assert rows["panel: first"].startswith("scored 100% (24/24)")
    assert rows["panel: second"].endswith("(21/24) of its completions; last failure: HTTP 500")
    assert rows["mean spread of the panel"].startswith("align 1.5, risk 0.0, detail 2.2 points")
    assert list(panel_rows([replace(batches[0], members=(), spread={})])) == []


# --- a wait that a setting would shorten ---------------------------------------


def slow_run() -> list[ev.Event]:
    """Three steps of a run that waits most of its time for a judge with four parallel calls."""
    calls = traffic(4, lambda row, open_calls: 0.5)
    return [
        replace(event, exposed_s=6.0, traffic=(calls,))
        if isinstance(event, ev.JudgeBatchFinished)
        else event
        for event in synthetic_run.run_with_steps(3)
    ]


def test_the_pane_shows_the_setting_that_would_shorten_the_wait_most() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *slow_run()))
        assert "→ concurrency=8: −3.9 s/step" in text_on_screen(app)

    for size in (WIDE, SMALL):
        drive(scenario, size=size)


def test_the_maximized_pane_has_the_condition_of_the_setting() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *slow_run()))
        await pilot.press("J")
        shown = " ".join(text_on_screen(app).replace("┃", " ").split())
        assert "waiting: the trainer waited 18 s for the judge in the last 3 steps" in shown
        assert "if its server answers 8 calls at a time as fast" in shown

    drive(scenario, size=WIDE)


def test_the_end_of_a_run_says_what_would_have_helped() -> None:
    state = state_of(traffic(4, lambda row, open_calls: 0.5))
    lines = summary_lines(state, run_ended("done", "Training complete"))
    [first] = [line for line in lines if line.startswith("  judge wait ")]
    assert "waited 30 s for the judge in the last 5 steps" in first
    assert "judge.concurrency=8 would save about 19 s" in " ".join(map(str.strip, lines))
    assert max(map(len, lines)) <= 98
