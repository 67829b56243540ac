"""`RunState`: the state of a run, computed from its events."""

from __future__ import annotations

import dataclasses

import pytest

from ida_tui.events import types as ev
from ida_tui.events.state import MAX_MEMORY_SAMPLES, RunState, first_window, fold_all, last_window


def step(number: int, r_ida: float | None) -> ev.StepFinished:
    return ev.StepFinished(
        step=number,
        steps=30,
        align=5.0,
        risk=5.0,
        detail=5.0,
        r_ida=r_ida,
        scored=8 if r_ida is not None else 0,
        completions=8,
        kl=None,
        entropy=1.0,
        loss=0.1,
        grad_norm=1.0,
        learning_rate=1e-3,
        lengths=(10.0, 5.0, 20.0),
        truncated=0.0,
        zero_std=0.0,
        weight_delta=number / 100,
        skipped=False,
        seconds={"generate": 1.0},
    )


def completion(number: int, index: int) -> ev.CompletionFinished:
    return ev.CompletionFinished(number, 0, index, "p", "prompt", f"text {index}", 3, True)


def verdict(number: int, index: int, r_ida: float | None) -> ev.CompletionScored:
    failure = None if r_ida is not None else "timeout"
    return ev.CompletionScored(
        number, 0, index, r_ida, r_ida, r_ida, r_ida, 0.0, "", "judge", 0.1, 0.0, False, failure
    )


def batch(cost: float | None) -> ev.JudgeBatchFinished:
    return ev.JudgeBatchFinished(1, 8, 2, 1, 3, 4.0, 4.0, 0.5, 0.9, cost)


def test_completions_stay_visible_while_a_later_update_reuses_them() -> None:
    generated = (ev.PhaseChanged(1, "generate"), completion(1, 0), step(1, 0.5))
    state = state_after(*generated, ev.PhaseChanged(2, "update"))
    assert [shown.finished.text for shown in state.completions] == ["text 0"]
    assert not state_after(*generated, ev.PhaseChanged(2, "generate")).completions


def state_after(*events: ev.Event) -> RunState:
    return fold_all(ev.Record(n, f"t{n}", event) for n, event in enumerate(events))


def test_the_first_and_last_rewards_are_means_over_three_and_five_steps() -> None:
    state = state_after(*(step(n, n / 10) for n in range(1, 11)))

    assert state.r_ida_first == pytest.approx(0.2)
    assert state.r_ida_last == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("scored", "first", "last"), [(0, 0, 0), (1, 1, 1), (2, 1, 1), (4, 2, 2), (8, 3, 5), (99, 3, 5)]
)
def test_a_short_run_has_a_first_and_a_last_window(scored: int, first: int, last: int) -> None:
    assert (first_window(scored), last_window(scored)) == (first, last)


def test_a_step_without_scores_does_not_count_toward_the_rewards() -> None:
    state = state_after(step(1, 0.2), step(2, None), step(3, 0.6))

    assert (state.r_ida_first, state.r_ida_last) == (0.2, 0.6)
    assert len(state.steps) == 3


def test_a_verdict_is_stored_with_its_completion() -> None:
    state = state_after(completion(1, 0), completion(1, 1), verdict(1, 1, 0.5))

    assert state.completions[0].scored is None
    assert state.completions[1].scored is not None
    assert state.completions[1].scored.r_ida == 0.5


def test_a_new_step_starts_with_no_completions() -> None:
    state = state_after(completion(1, 0), ev.PhaseChanged(2, "generate"))

    assert state.completions == ()
    assert state.step == 2


def test_one_batch_of_unknown_cost_makes_the_total_unknown() -> None:
    assert state_after(batch(0.25), batch(0.5)).judge.cost == 0.75
    assert state_after(batch(0.25), batch(None), batch(0.5)).judge.cost is None


def test_judge_totals_are_summed_over_batches() -> None:
    totals = state_after(batch(0.0), batch(0.0)).judge

    assert (totals.batches, totals.calls, totals.cached, totals.failed) == (2, 16, 4, 2)
    assert (totals.retries, totals.seconds) == (6, 8.0)


def test_a_resumed_run_forgets_the_steps_after_its_checkpoint() -> None:
    state = state_after(step(1, 0.1), step(2, 0.2), step(3, 0.3), ev.RunResumed(from_step=2))

    assert [s.step for s in state.steps] == [1, 2]
    assert state.ended is None


def test_the_state_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        state_after(step(1, 0.1)).step = 5  # type: ignore[misc]


def test_a_rollout_shows_its_prompts_and_the_text_so_far() -> None:
    rollout = ev.RolloutStarted(1, 2, ("a", "b"), ("harmless", "unsafe"), ("Ask a", "Ask b"))

    state = state_after(
        ev.PhaseChanged(1, "generate"),
        rollout,
        ev.TextGenerated(1, ("To", "I", "", "No")),
        ev.TextGenerated(1, (" stop", "", "Sure", ".")),
    )

    assert state.rollout == rollout
    assert state.streams == ("To stop", "I", "Sure", "No.")
    assert state_after(rollout, ev.PhaseChanged(2, "generate")).streams == ()


def test_only_the_newest_memory_samples_are_stored_and_the_peaks_cover_all() -> None:
    samples = [ev.MemorySampled(n, 999, 2 * n, None, None, 0, None) for n in range(600, 0, -1)]

    state = state_after(*samples)

    assert len(state.memory_samples) == MAX_MEMORY_SAMPLES
    assert state.memory_samples[-1] == state.memory == samples[-1]
    assert (state.memory_peak, state.system_peak) == (1200, 600)
