"""The change of the weights as a reader sees it, also in runs of older versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ida_tui.events import narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState
from ida_tui.events.weight_change import format_movement, weight_movement
from ida_tui.sweep.results import FIGURES
from ida_tui.tui.screens.run.health import step_metrics
from tests.events.test_state import state_after, step

OLD_STEP = step(1, 0.5)
NEW_STEP = replace(OLD_STEP, weight_delta=0.4875, model_change=0.00111)


def ended(model_change: float | None, weight_delta: float = 0.4875) -> ev.RunEnded:
    return ev.RunEnded(
        "done", 0, 1, 0.5, 0.5, weight_delta, 1.0, 0.0, "Training complete", "", model_change
    )


def moved_line(state: RunState, end: ev.RunEnded) -> str:
    return next(line for line in narration.summary_lines(state, end) if "moved" in line)


def test_the_summary_shows_the_change_of_the_whole_model() -> None:
    assert (
        moved_line(state_after(NEW_STEP), ended(0.00111))
        == "  weights moved  0.11% (relative L2 norm, whole model)"
    )


def test_the_adapter_of_an_older_run_is_not_called_the_weights() -> None:
    assert (
        moved_line(state_after(OLD_STEP), ended(None))
        == "  adapter moved  48.75% (relative L2 norm)"
    )


def test_an_older_run_that_trained_all_weights_keeps_its_figure() -> None:
    movement = weight_movement(OLD_STEP, "full")
    assert (movement.name, movement.share) == ("weights moved", 0.01)
    assert "sampled" in movement.basis


def test_the_health_pane_names_which_of_the_two_it_shows() -> None:
    assert dict(step_metrics(state_after(NEW_STEP)))["weight Δ"] == "0.11%"
    assert dict(step_metrics(state_after(OLD_STEP)))["adapter Δ"] == "1.00%"


def test_a_sweep_does_not_average_adapters_of_older_runs_with_models() -> None:
    assert FIGURES["weights_moved"](state_after(NEW_STEP)) == 0.00111
    assert FIGURES["weights_moved"](state_after(OLD_STEP)) is None


def test_an_adapter_that_moved_without_changing_the_model_is_no_success() -> None:
    assert not ended(model_change=0.0).succeeded
    assert ended(model_change=1e-9).succeeded
    assert ended(model_change=None).succeeded


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.00%"), (0.4875, "48.75%"), (0.00111, "0.11%"), (4.6e-6, "0.00046%"), (None, "–")],
)
def test_a_small_change_is_not_rounded_to_zero(share: float | None, text: str) -> None:
    assert format_movement(share) == text
