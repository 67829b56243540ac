"""`RunState`: the state of a run, computed from its events."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ida_tui.config.scoring.axes import IDA_AXES, IDA_AXIS_NAMES
from ida_tui.events import types as ev
from ida_tui.events.figures import MAX_MEMORY_SAMPLES
from ida_tui.events.narration import summary_lines
from ida_tui.events.scoring import change_sentences
from ida_tui.events.state import RunState, first_window, fold_all, last_window
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import EIGHT_AXES, started_with


def step(number: int, reward: float | None) -> ev.StepFinished:
    return ev.StepFinished(
        step=number,
        steps=30,
        scores={"align": 5.0, "risk": 5.0, "detail": 5.0},
        reward=reward,
        scored=8 if reward is not None else 0,
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


def verdict(number: int, index: int, reward: float | None) -> ev.CompletionScored:
    failure = None if reward is not None else "timeout"
    scores = dict.fromkeys(IDA_AXIS_NAMES, reward)
    return ev.CompletionScored(
        number, 0, index, scores, reward, 0.0, "", "judge", 0.1, 0.0, False, failure
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

    assert state.reward_first == pytest.approx(0.2)
    assert state.reward_last == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("scored", "first", "last"), [(0, 0, 0), (1, 1, 1), (2, 1, 1), (4, 2, 2), (8, 3, 5), (99, 3, 5)]
)
def test_a_short_run_has_a_first_and_a_last_window(scored: int, first: int, last: int) -> None:
    assert (first_window(scored), last_window(scored)) == (first, last)


def test_a_step_without_scores_does_not_count_toward_the_rewards() -> None:
    state = state_after(step(1, 0.2), step(2, None), step(3, 0.6))

    assert (state.reward_first, state.reward_last) == (0.2, 0.6)
    assert len(state.steps) == 3


def test_a_verdict_is_stored_with_its_completion() -> None:
    state = state_after(completion(1, 0), completion(1, 1), verdict(1, 1, 0.5))

    assert state.completions[0].scored is None
    assert state.completions[1].scored is not None
    assert state.completions[1].scored.reward == 0.5


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


def test_the_last_line_counts_the_verdicts_of_the_evaluation_and_says_why_some_failed() -> None:
    ended = run_ended("done", "Training complete")
    evaluation = ev.EvaluationFinished(
        "after", 1, 2, 0, 0, 0, 0, 0, 0, ev.OFFLINE_JUDGE, 1.0,
        judge_work=ev.JudgeWork(6, 1, 1, 0, 2.0, "no reply within 60 s"),
    )  # fmt: skip
    state = state_after(batch(0.25), evaluation, ended)

    assert (state.judge.calls, state.judge.cached, state.judge.failed) == (14, 3, 2)
    line = next(line for line in summary_lines(state, ended) if line.startswith("  judge"))
    assert "14 calls, 3 from the cache, 2 failed (no reply within 60 s)" in line


def test_the_offline_judge_says_in_the_last_line_why_verdicts_failed() -> None:
    ended = run_ended("done", "Training complete")
    started = replace(run_started(Path("run")), judge=ev.OFFLINE_JUDGE)
    state = state_after(started, replace(batch(0.0), failure="not in English"), ended)

    line = next(line for line in summary_lines(state, ended) if line.startswith("  judge"))
    assert "8 verdicts from the offline heuristic, 1 failed (not in English)" in line


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


# --- time of training ---

START = datetime(2026, 1, 1, tzinfo=UTC)


def state_at_times(*timed_events: tuple[float, ev.Event]) -> RunState:
    """The state after events at these seconds since the start."""
    return fold_all(
        ev.Record(n, (START + timedelta(seconds=seconds)).isoformat(), event)
        for n, (seconds, event) in enumerate(timed_events)
    )


def end(seconds: float, paused_s: float | None) -> ev.RunEnded:
    return ev.RunEnded(
        "done", 0, 2, None, None, 0.1, seconds, 0.0, "Training complete", "", paused_s=paused_s
    )


PAUSE = ev.RunPaused(1, "paused", by="person")
SLEPT = ev.Noticed("warning", "machine", "the machine slept for 10 min", lost_s=600)


@pytest.mark.parametrize(
    ("timed_events", "seconds"),
    [
        ([(0, step(1, 0.1)), (10, PAUSE), (70, ev.RunResumed(1)), (80, step(2, 0.1))], 20),
        # A pause that is requested twice, and a stop during a pause.
        ([(0, step(1, 0.1)), (10, PAUSE), (40, PAUSE), (70, end(99, None))], 39),
        # A stop, and a resume an hour later.
        ([(0, step(1, 0.1)), (10, end(10, 0)), (3610, ev.RunResumed(1)), (3615, step(2, 0.1))], 15),
        # A process that died, and a resume an hour later.
        ([(0, step(1, 0.1)), (10, step(2, 0.1)), (3610, ev.RunResumed(1)), (3620, PAUSE)], 20),
        # A process that died while the run was paused.
        ([(0, step(1, 0.1)), (10, PAUSE), (3610, ev.RunResumed(1)), (3620, step(2, 0.1))], 20),
        # The machine slept; during a pause that makes no difference.
        ([(0, step(1, 0.1)), (700, SLEPT)], 100),
        ([(0, step(1, 0.1)), (10, PAUSE), (700, SLEPT), (800, ev.RunResumed(1))], 10),
        # An older run, whose duration includes its pause.
        ([(0, step(1, 0.1)), (10, PAUSE), (70, ev.RunResumed(1)), (99, end(99, None))], 39),
        # A duration without pauses is what the run measured.
        ([(0, step(1, 0.1)), (10, PAUSE), (70, ev.RunResumed(1)), (99, end(38.5, 60.5))], 38.5),
    ],
)
def test_pauses_sleep_and_the_time_between_processes_are_not_time_of_training(
    timed_events: list[tuple[float, ev.Event]], seconds: float
) -> None:
    assert state_at_times(*timed_events).trained_seconds() == seconds


def test_the_time_of_training_stands_still_while_the_run_is_paused() -> None:
    active = state_at_times((0, step(1, 0.1)), (10, PAUSE), (70, ev.RunResumed(1)))
    paused = state_at_times((0, step(1, 0.1)), (10, PAUSE))
    now = START + timedelta(seconds=100)

    assert active.trained_seconds(now) == 40
    assert paused.trained_seconds(now) == 10


def test_a_wait_for_the_disk_counts_once() -> None:
    waited = ev.Noticed("info", "disk", "the run waited 60 s for the disk", lost_s=60)
    full = ev.RunPaused(1, "the disk is full", by="disk")
    live = [(0, step(1, 0.1)), (10, full), (70, ev.RunResumed(1)), (71, waited)]

    assert state_at_times(*live).trained_seconds() == 11
    # The full disk does not store the pause.
    assert state_at_times(live[0], live[3]).trained_seconds() == 11


def test_the_time_of_training_is_unknown_without_the_times_of_events() -> None:
    assert state_after(step(1, 0.1)).trained_seconds() is None


# --- scoring periods --------------------------------------------------------------------------


def scored_by(judge: str, formula: str = "r_ida") -> dict[str, str]:
    return {"judge": judge, "formula": formula}


def started(judge: str, scoring: dict[str, str] | None = None) -> ev.RunStarted:
    run = run_started(Path("outputs/q/1"))
    return dataclasses.replace(run, judge=judge, scoring=scoring or {})


def test_no_figure_combines_the_scores_of_two_judges() -> None:
    state = state_after(
        started("A", scored_by("A")),
        *(step(n, 0.1) for n in range(1, 5)),
        ev.RunResumed(4, "B", scored_by("B")),
        started("B", scored_by("B")),
        *(step(n, 0.9) for n in range(5, 9)),
    )
    assert [s.step for s in state.first_steps] == [5, 6]
    assert (state.reward_first, state.reward_last) == (pytest.approx(0.9), pytest.approx(0.9))
    assert change_sentences(state.scoring) == [
        "After step 4 the judge (A → B) changed, so scores before and after it are not comparable."
    ]


def test_another_formula_with_the_same_judge_starts_a_new_scoring_period() -> None:
    state = state_after(
        started("A", scored_by("A")),
        step(1, 0.1),
        ev.RunResumed(1, "A", scored_by("A", "weakest")),
        step(2, 0.9),
    )
    assert (state.scored_since_step, state.reward_first) == (1, 0.9)
    assert "the reward formula (r_ida → weakest)" in change_sentences(state.scoring)[0]


def test_an_old_run_that_was_resumed_with_another_judge_has_two_scoring_periods() -> None:
    state = state_after(started("A"), step(1, 0.1), ev.RunResumed(1), started("B"), step(2, 0.9))
    assert (state.scored_since_step, state.reward_first) == (1, 0.9)


def test_a_run_that_returns_to_an_earlier_checkpoint_and_judge_has_one_scoring_period() -> None:
    state = state_after(
        started("A", scored_by("A")),
        *(step(n, 0.1) for n in range(1, 4)),
        ev.RunResumed(3, "B", scored_by("B")),
        step(4, 0.9),
        ev.RunResumed(2, "A", scored_by("A")),
        step(3, 0.2),
    )
    assert (state.scored_since_step, len(state.scoring)) == (0, 1)
    assert [s.step for s in state.steps] == [1, 2, 3]


def test_a_checkpoint_before_a_change_is_followed_by_steps_with_the_new_scoring() -> None:
    state = state_after(
        started("A", scored_by("A")),
        *(step(n, 0.1) for n in range(1, 4)),
        ev.RunResumed(3, "B", scored_by("B")),
        step(4, 0.9),
        ev.RunResumed(2),
        step(3, 0.8),
    )
    assert (state.scored_since_step, state.reward_first) == (2, 0.8)


def test_the_recorded_cost_replaces_the_sum_of_the_batches() -> None:
    recorded = dataclasses.replace(batch(0.1), judge_cost=ev.JudgeCost(0.5, 0, 2))
    totals = state_after(batch(0.1), recorded).judge
    assert (totals.cost, totals.estimated) == (0.5, 2)
    paused = ev.RunPaused(1, "no credit", judge_cost=ev.JudgeCost(0.7))
    assert state_after(batch(0.1), paused).judge.cost == 0.7
    assert state_after(ev.RunPaused(1, "-", judge_cost=ev.JudgeCost(0, 1))).judge.cost is None


# --- scores on any axes -----------------------------------------------------------------------


def scored_step(
    number: int, scores: dict[str, float | None], reward: float | None
) -> ev.StepFinished:
    return dataclasses.replace(step(number, reward), scores=scores)


def test_scores_are_columns_by_axis_also_for_an_axis_named_like_a_figure_of_a_step() -> None:
    axes = ("step", "reward", "skipped")
    state = state_after(
        *(scored_step(n, dict.fromkeys(axes, n / 2), -5.0 * n) for n in range(1, 601))
    )

    for axis in axes:
        assert list(state.steps.score_column(axis)) == [n / 2 for n in range(1, 601)]
    assert list(state.steps.column("step")) == list(range(1, 601))
    assert list(state.steps.column("reward")) == [-5.0 * n for n in range(1, 601)]
    assert state.reward_last == pytest.approx(-5.0 * 598)


def test_a_score_that_a_step_does_not_have_is_unknown_in_its_column() -> None:
    state = state_after(
        scored_step(1, {"brief": 1.0}, 1.0),
        scored_step(2, {"brief": None, "tone": 7.0}, 1.0),
        scored_step(3, {"tone": 8.0}, 1.0),
    )

    assert list(state.steps.score_column("brief")) == [1.0, None, None]
    assert list(state.steps.score_column("tone")) == [None, 7.0, 8.0]
    assert list(state.steps.score_column("tone").since(1)) == [7.0, 8.0]
    assert list(state.steps.score_column("unknown")) == [None, None, None]
    assert list(state.steps.prefix(2).score_column("tone")) == [None, 7.0]


def test_the_axes_and_the_name_of_the_reward_are_those_of_the_run() -> None:
    state = state_after(started_with(EIGHT_AXES, 40, "usefulness"))

    assert (state.axes, state.reward_name) == (EIGHT_AXES, "usefulness")
    assert (RunState().axes, RunState().reward_name) == (IDA_AXES, "R_IDA")


def test_evaluations_after_the_checkpoint_of_a_resume_are_made_again() -> None:
    def made(number: int, reward: float) -> ev.EvaluationFinished:
        return ev.EvaluationFinished(
            "during", number, 2, 0, 0, 0, 0, 0, 0, "offline", 1.0, reward=reward,
            reward_by_prompt=(reward, reward),
        )  # fmt: skip

    events = [made(1, 0.1), made(2, 0.2), made(3, 0.3), ev.RunResumed(2), made(3, 0.4)]
    state = fold_all(ev.Record(n, ev.current_timestamp(), event) for n, event in enumerate(events))

    assert [(e.step, e.reward) for e in state.evaluations] == [(1, 0.1), (2, 0.2), (3, 0.4)]


def test_the_memory_of_an_evaluation_between_two_steps_belongs_to_neither() -> None:
    sample = ev.MemorySampled(0, 9, 5, None, None, 0, None, phase="evaluate")
    events = [step(1, 0.5), sample, replace(sample, process=3, phase="update"), step(2, 0.5)]
    state = fold_all(ev.Record(n, ev.current_timestamp(), event) for n, event in enumerate(events))

    assert state.step_peaks == (3,)
    assert state.memory_by_phase["evaluate"] == 5
