"""Screens of runs with other axes than the shipped ones: one, and eight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from ida_tui.config.scoring.axes import Axis
from ida_tui.events import types as ev
from ida_tui.tui.app import IdaApp
from ida_tui.tui.widgets.plot import PlotLine, draw_plot
from tests.support import synthetic_run
from tests.support.app_driver import SMALL, WIDE, drive, settled, text_on_screen
from tests.tui.test_run import ScriptedSource, show_source

EIGHT = synthetic_run.EIGHT_AXES
IDA_WORDS = re.compile(
    r"refus|declin|harmless|unsafe|\balign\b|\brisk\b|safest|\bdetail\b|R_IDA|offline", re.I
)
"""Words on the shipped axes and on refusals, which no screen of another reward contains."""
STEPS = 8


def run_of(axes: Sequence[Axis]) -> list[ev.Event]:
    """A run in progress with these axes, a reward from −5 to 120, and prompts without a kind."""
    started = synthetic_run.started_with(axes, STEPS)
    events = synthetic_run.run_events(
        Path("run"), STEPS, 4, started, kind="", reward_range=(-5.0, 120.0)
    )
    return [event for event in events if not isinstance(event, ev.RunEnded | ev.CheckpointSaved)]


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_eight_axes_are_shown_on_the_run_screen(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_of(EIGHT)))
        text = text_on_screen(app)
        assert "usefulness 95.000" in text
        assert "usefulness=95.000 | accuracy=8.0 tone=8.0 step=8.0" in text
        labels = [f"{axis.name} " for axis in EIGHT if re.search(rf" {axis.name} −?\d", text)]
        if size == WIDE:
            assert len(labels) == len(EIGHT)
        else:
            assert re.search(r"\+\d more", text)
        assert not IDA_WORDS.findall(text)
        ended = ev.RunEnded("done", 0, STEPS, 20.0, 95.0, 0.1, 9.0, 0.0, "Training complete", "")
        before = ev.EvaluationFinished("before", 0, 9, 0, 0, 0, 0, 0, 0, ev.OFFLINE_JUDGE, 1.0)
        finished = [*run_of(EIGHT), before, replace(before, when="after"), ended]
        await show_source(app, pilot, ScriptedSource("replay", *finished))
        assert "usefulness 20.000 → 95.000 (+75.000)" in text_on_screen(app)
        assert "held-out: " not in text_on_screen(app)

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_evaluations_between_the_steps_are_points_beside_the_curve(size: tuple[int, int]) -> None:
    scored = ev.EvaluationFinished(
        "during", 3, 9, 0, 0, 0, 0, 0, 0, ev.OFFLINE_JUDGE, 1.0, reward=47.5,
        scores={axis.name: 1.0 for axis in EIGHT},
    )  # fmt: skip
    progress = [ev.PhaseChanged(STEPS - 1, "evaluate"), ev.EvaluationProgressed(STEPS - 1, 64, 120)]
    events = [e for e in run_of(EIGHT) if not isinstance(e, ev.StepFinished) or e.step < STEPS]

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *events, scored, *progress))
        text = text_on_screen(app)
        assert "held out 47.500" in text
        assert "evaluating held-out prompts" in text
        assert "64/120 answers" in text
        assert "usefulness=47.500" in text
        assert not IDA_WORDS.findall(text)
        first, last = (
            replace(scored, when="before", step=0),
            replace(scored, when="after", step=STEPS),
        )
        pair = (
            replace(first, reward_by_prompt=(1.0,) * 9),
            replace(last, reward_by_prompt=(9.0,) * 9),
        )
        ended = ev.RunEnded("done", 0, STEPS, 20.0, 95.0, 0.1, 9.0, 0.0, "Training complete", "")
        await show_source(app, pilot, ScriptedSource("replay", *run_of(EIGHT), *pair, ended))
        assert "1.000 → 9.000" in text_on_screen(app)
        assert not IDA_WORDS.findall(text_on_screen(app))

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_one_computed_axis_is_shown_on_its_own_scale(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_of(EIGHT[-1:])))
        text = text_on_screen(app)
        assert "penalty −1.000" in text
        assert "−5┤" in text
        assert not IDA_WORDS.findall(text)

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_the_completions_screen_lists_the_scores_of_all_axes(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await show_source(app, pilot, ScriptedSource("live", *run_of(EIGHT)))
        await pilot.press("3")
        await settled(app, pilot)
        table = app.screen.query_one(DataTable)
        titles = [str(column.label) for column in table.columns.values()]
        assert titles[:3] == ["#", "usefulness", "adv"]
        if size == WIDE:
            assert titles[3:-2] == [axis.name for axis in EIGHT]
            cells = [str(cell) for cell in table.get_row_at(0)]
            assert cells[3:11] == ["8.0", "8.0", "8.0", "0.8", "0.8", "0.8", "0.8", "−1"]
        text = " ".join(text_on_screen(app).split())
        assert "accuracy 8, tone 8, step 8" in text
        assert not IDA_WORDS.findall(text)

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_eight_axes_are_compared_one_after_the_other(size: tuple[int, int]) -> None:
    paths = []
    for number, steps in enumerate((4, STEPS)):
        path = Path(f"outputs/words/2026010{number}-000000").absolute()
        started = synthetic_run.started_with(EIGHT, steps)
        synthetic_run.write(
            path / "events.jsonl", steps, 2, started, kind="", reward_range=(-5, 120)
        )
        paths.append(path)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.compared_runs = tuple(paths)
        await app.action_go("compare")
        await settled(app, pilot)
        seen = []
        for _ in range(1 + len(EIGHT)):
            await settled(app, pilot)
            title = str(app.screen.query_one("#compare-curves").border_title)
            seen.append(title)
            assert not IDA_WORDS.findall(text_on_screen(app))
            await pilot.press("n")
        assert seen == ["usefulness", *(axis.name for axis in EIGHT)]

    drive(scenario, size=size)


def test_labels_that_do_not_fit_beside_a_plot_are_counted() -> None:
    lines = [PlotLine(f"axis{n}", [n / 10, n / 10], "$text-accent") for n in range(8)]

    few = draw_plot(lines, low=0, high=1, width=60, height=5).plain.splitlines()
    enough = draw_plot(lines, low=0, high=1, width=60, height=9).plain

    assert sum("axis" in row for row in few) == 3
    assert few[3].rstrip().endswith("+5 more")
    assert all(f"axis{n}" in enough for n in range(8))
    assert "more" not in enough
    assert {len(row) for row in few} == {60}
