"""Contents of the run screen's panes, computed from the state of a run without the app."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.types import Record
from ida_tui.tui.screens.run.health import step_metrics
from ida_tui.tui.screens.run.memory import render_gauge
from ida_tui.tui.screens.run.progress import estimate_remaining_s, render_step_time
from tests.support.app_driver import NOON
from tests.support.synthetic_run import run_events, run_with_steps


def state_of(events: Iterable[ev.Event]) -> RunState:
    return fold_all(Record(n, NOON.isoformat(), event) for n, event in enumerate(events))


def test_the_remaining_time_is_known_once_a_step_has_finished() -> None:
    assert estimate_remaining_s(state_of(run_events(Path("run"), 0))) is None
    assert estimate_remaining_s(state_of(run_with_steps(3))) == pytest.approx(37 * 3.5)


def test_the_remaining_time_after_a_resume_is_estimated_from_the_steps_since_then() -> None:
    step = state_of(run_with_steps(1)).steps[0]
    faster = replace(step, step=4, seconds={"generate": 1.0})
    resumed = [*run_with_steps(3), ev.RunResumed(3)]

    assert estimate_remaining_s(state_of(resumed)) == pytest.approx(37 * 3.5)
    assert estimate_remaining_s(state_of([*resumed, faster])) == pytest.approx(36 * 1.0)


def test_memory_near_the_limit_is_labeled() -> None:
    def gauge_text(share: float) -> str:
        return render_gauge(int(share * 48e9), 48e9, 40)[0].plain

    assert gauge_text(0.5).endswith(" 50%")
    assert gauge_text(0.86).endswith(" 86% high")
    assert gauge_text(0.97).endswith(" 97% critical")


def test_step_metrics_are_formatted() -> None:
    assert dict(step_metrics(state_of(run_with_steps(1))))["KL"] == "0.01"


def test_the_health_pane_shows_the_newest_comparison_of_drawn_and_scored_tokens() -> None:
    events = run_with_steps(3)
    checked = [
        replace(event, logprob_gap=2e-7)
        if isinstance(event, ev.StepFinished) and event.step == 2
        else event
        for event in events
    ]
    unchecked, state = state_of(events), state_of(checked)
    assert unchecked.logprob_gap is None
    assert "logprob Δ" not in dict(step_metrics(unchecked))
    assert dict(step_metrics(state))["logprob Δ"] == "2e-07"


def test_the_health_pane_shows_how_far_the_drawing_policy_is_from_the_trained_one() -> None:
    (step,) = state_of(run_with_steps(1)).steps
    drawn = replace(step, sampling_ratio=1.0012, sampling_kl=5e-4, sampling_clipped=0.125)
    figures = dict(step_metrics(state_of([drawn])))
    assert (figures["IS ratio"], figures["IS KL"]) == ("1.001", "0.0005")
    assert figures["IS capped"].startswith("12")
    assert not [name for name in dict(step_metrics(state_of([step]))) if name.startswith("IS")]


def test_a_step_that_reuses_completions_shows_their_figures_and_its_own_loss() -> None:
    (generated,) = state_of(run_with_steps(1)).steps
    reusing = replace(
        generated, step=2, reused_step=1, reward=None, loss=0.7, lengths=None, truncated=None
    )
    figures = dict(step_metrics(state_of([generated, reusing])))
    assert figures["loss"] == "0.7"
    assert figures["lengths"] == "60 (60–60)"


def test_the_progress_pane_says_where_a_step_spends_its_time_and_what_would_save_most() -> None:
    slow = {"generate": 4.0, "reference": 2.0, "update": 2.0}
    least = {"generate": 2.0, "reference": 1.0, "update": 1.0}
    state = state_of(
        replace(event, seconds=slow, least_seconds=least)
        if isinstance(event, ev.StepFinished)
        else event
        for event in run_with_steps(3)
    )
    line = render_step_time(state, 200).plain
    assert line.startswith("a step takes 8.0 s: generate 4.0 s (2.0× the limit) · reference")
    assert "training.beta=0 saves up to 2.0 s" in line
    assert render_step_time(state, 114).plain == (
        "a step takes 8.0 s: generate 4.0 s · reference 2.0 s · update 2.0 s"
        " · training.beta=0 saves up to 2.0 s"
    )
    assert render_step_time(state, 76).plain == (
        "a step takes 8.0 s: generate 4.0 s · reference 2.0 s · update 2.0 s"
    )
    assert render_step_time(state, 58).plain == "a step takes 8.0 s"
    assert render_step_time(state_of(run_with_steps(3)), 200).plain == ""
