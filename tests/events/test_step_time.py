"""Where the time of a step goes, against the speed of the device, and what would save most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.step_time import TimeSettings, format_phases, step_time
from tests.support import synthetic_run

TIME = "2026-01-01T00:00:00.000Z"


def state_of(
    seconds: dict[str, float], least: dict[str, float], stragglers_s: float | None = None
) -> RunState:
    """A run of three steps that took these seconds, and would have taken `least` at best."""
    events = [
        replace(event, seconds=seconds, least_seconds=least, stragglers_s=stragglers_s)
        if isinstance(event, ev.StepFinished)
        else event
        for event in synthetic_run.run_with_steps(3)
    ]
    return fold_all(ev.Record(number, TIME, event) for number, event in enumerate(events))


def test_each_phase_is_compared_with_its_shortest_time() -> None:
    time = step_time(
        state_of({"generate": 4.0, "judge": 2.0, "update": 2.0}, {"generate": 2.0, "update": 0.1})
    )
    assert time is not None
    assert format_phases(time) == (
        "8.0 s: generate 4.0 s (2.0× the limit) · judge 2.0 s · update 2.0 s (20× the limit)"
    )


def test_a_phase_that_takes_next_to_nothing_is_left_out() -> None:
    time = step_time(state_of({"generate": 4.0, "judge": 0.001}, {"generate": 2.0}))
    assert time is not None
    assert [phase.phase for phase in time.phases] == ["generate"]


def test_a_run_of_an_older_version_has_no_account_of_its_time() -> None:
    assert step_time(state_of({"generate": 4.0}, {})) is None


@pytest.mark.parametrize(
    ("seconds", "stragglers_s", "settings", "change"),
    [
        ({"generate": 4.0, "reference": 2.0}, 1.0, TimeSettings(), "training.beta=0"),
        ({"generate": 4.0, "reference": 0.5}, 1.0, TimeSettings(), "max_completion_length"),
        ({"update": 6.0}, None, TimeSettings(recomputes=True), "gradient_checkpointing=false"),
        ({"generate": 9.0}, None, TimeSettings(is_plain=True), "engine=fast"),
    ],
)
def test_the_change_that_saves_most_is_named(
    seconds: dict[str, float], stragglers_s: float | None, settings: TimeSettings, change: str
) -> None:
    least = dict.fromkeys(seconds, 0.1)
    time = step_time(state_of(seconds, least, stragglers_s), settings)
    assert time is not None
    assert time.saving is not None
    assert change in time.saving.change
    assert time.saving.seconds <= time.seconds


def test_a_saving_of_less_than_a_twentieth_of_a_step_is_not_named() -> None:
    time = step_time(state_of({"generate": 4.0, "reference": 0.1}, {"generate": 3.0}, 0.1))
    assert time is not None
    assert time.saving is None
