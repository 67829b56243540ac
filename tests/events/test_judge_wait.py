"""What the trainer waited for its judge, and what would help: predictions beside a simulated server."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui.events import types as ev
from ida_tui.events.judge_replay import OpenCalls, replay
from ida_tui.events.judge_wait import JudgeWait, judge_wait
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.values import JudgeCall, JudgeTraffic
from tests.support import synthetic_run

GENERATIONS, ROWS, SAMPLING_S = 8, 64, 2.0
Latency = Callable[[int, int], float]
"""Seconds of a call, from its row and the number of calls that are open when it is sent, itself included."""


def simulate(slots: int, latency: Latency, tokens: Sequence[int] | None = None) -> list[JudgeCall]:
    """The calls of a step whose completions end one by one within two seconds."""
    calls: list[JudgeCall] = []
    for row in range(ROWS):
        requested = SAMPLING_S * row / ROWS
        ends = sorted(call.answered_s for call in calls)
        sent = max(requested, ends[-slots] if len(ends) >= slots else 0.0)
        open_calls = 1 + sum(end > sent for end in ends)
        output = None if tokens is None else tokens[row]
        calls.append(JudgeCall(requested, sent, sent + latency(row, open_calls), 800, output))
    return calls


def wait_of(*parts: Sequence[JudgeCall]) -> float:
    """Seconds between the end of the last completion and the last verdict."""
    return max(0.0, max(call.answered_s for calls in parts for call in calls) - SAMPLING_S)


def state_of(
    *parts: JudgeTraffic, steps: int = 5, update_s: float = 1.0, throttled: bool = False
) -> RunState:
    """A run whose steps all have these calls."""
    exposed = wait_of(*(part.calls for part in parts))
    started = replace(synthetic_run.started_with(ev.IDA_AXES, steps), generations=GENERATIONS)
    events: list[ev.Event] = [started]
    for step in range(1, steps + 1):
        if throttled and step == 2:
            events.append(ev.JudgeSlowed(0.0, 4, "HTTP 429"))
        *_, finished = synthetic_run.step_events(step, steps)
        assert isinstance(finished, ev.StepFinished)
        seconds = {"generate": SAMPLING_S, "judge": exposed, "update": update_s}
        batch = ev.JudgeBatchFinished(step, ROWS, 0, 0, 0, 3.0, exposed, 1.0, 1.0, 0.0)
        panel = [ev.JudgeMember(part.judge, ROWS, ROWS) for part in parts if len(parts) > 1]
        batch = replace(batch, traffic=parts, members=tuple(panel))
        events += [batch, replace(finished, seconds=seconds)]
    time = "2026-01-01T00:00:00.000Z"
    return fold_all(ev.Record(number, time, event) for number, event in enumerate(events))


def traffic(
    slots: int, latency: Latency, tokens: Sequence[int] | None = None, mode: str = "absolute"
) -> JudgeTraffic:
    return JudgeTraffic("gpt-4o-mini", slots, mode, tuple(simulate(slots, latency, tokens)))


def hint(state: RunState) -> JudgeWait:
    wait = judge_wait(state)
    assert wait is not None
    assert wait.remedy is not None
    return wait


def noisy(mean_s: float) -> Latency:
    """Latencies of a server that is as fast with many calls as with one."""
    seconds = [random.Random(row).uniform(0.5, 1.5) * mean_s for row in range(ROWS)]
    return lambda row, open_calls: seconds[row]


# --- more calls at a time -----------------------------------------------------


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_the_saving_of_twice_as_many_slots_is_that_of_the_simulated_server(slots: int) -> None:
    before, after = (simulate(count, noisy(0.5)) for count in (slots, 2 * slots))

    wait = hint(state_of(traffic(slots, noisy(0.5)), update_s=0.1))

    assert wait.remedy is not None
    assert wait.remedy.setting == f"judge.concurrency={2 * slots}"
    assert wait.remedy.saved_s == pytest.approx(wait_of(before) - wait_of(after), rel=0.02)
    assert wait.waited_s == pytest.approx(5 * wait_of(before))


def test_the_sentence_names_the_wait_the_slots_and_the_seconds_that_a_setting_saves() -> None:
    wait = hint(state_of(traffic(4, lambda row, open_calls: 0.5)))
    assert wait.text == (
        "the trainer waited 30 s for the judge in the last 5 steps, 67% of their time; all 4 parallel"
        " calls were open for 98% of the wait; judge.concurrency=8 would save about 19 s if its"
        " server answers 8 calls at a time as fast"
    )
    assert wait.short_text == "concurrency=8: −3.9 s/step"


def test_a_server_that_answers_fewer_calls_at_a_time_gets_no_more_of_them() -> None:
    ends = [0.0, 0.0]  # of the two calls that this server answers at a time

    def queued(row: int, sent: float) -> float:
        ends.sort()
        ends[0] = max(sent, ends[0]) + noisy(0.5)(row, 1)
        return ends[0] - sent

    calls: list[JudgeCall] = []
    for row in range(ROWS):
        requested = SAMPLING_S * row / ROWS
        sent = max(requested, sorted(call.answered_s for call in calls)[-4] if row >= 4 else 0.0)
        calls.append(JudgeCall(requested, sent, sent + queued(row, sent)))

    full = state_of(JudgeTraffic("gpt-4o-mini", 4, "absolute", tuple(calls)), update_s=8.0)

    assert wait_of(calls) > 10
    assert judge_wait(full) is None


def test_a_judge_that_answers_while_the_trainer_samples_gets_no_hint() -> None:
    assert judge_wait(state_of(traffic(64, lambda row, open_calls: 0.1))) is None


def test_a_wait_that_is_short_beside_the_step_gets_no_hint() -> None:
    slow = traffic(4, lambda row, open_calls: 0.5)
    assert judge_wait(state_of(slow, update_s=1.0)) is not None
    assert judge_wait(state_of(slow, update_s=60.0)) is None


def test_two_steps_are_too_few_for_a_hint() -> None:
    slow = traffic(4, lambda row, open_calls: 0.5)
    assert judge_wait(state_of(slow, steps=2)) is None
    assert judge_wait(state_of(slow, steps=3)) is not None


# --- a server that takes no more ----------------------------------------------


def test_a_server_that_rejects_calls_is_said_to_take_no_more_and_gets_fewer() -> None:
    wait = hint(state_of(traffic(8, lambda row, open_calls: 1.0), throttled=True))
    assert "its server rejected calls, so it takes no more at a time" in wait.text
    assert wait.text.endswith("judge.mode=group makes about 8 calls, not 64")
    assert "concurrency=" not in wait.text
    assert wait.short_text == "server full, try mode=group"


def test_a_plugin_that_rejects_calls_is_not_told_to_score_groups() -> None:
    full = state_of(traffic(8, lambda row, open_calls: 1.0, mode="plugin"), throttled=True)
    wait = judge_wait(full)
    assert wait is not None
    assert wait.remedy is None
    assert wait.text.endswith("takes no more at a time")


# --- fewer tokens, fewer calls ------------------------------------------------


def test_replies_that_are_mostly_thought_are_measured_and_named() -> None:
    tokens = [400 + 50 * (row % 9) for row in range(ROWS)]
    by_tokens: Latency = lambda row, open_calls: 0.2 + 0.005 * tokens[row]  # noqa: E731

    wait = hint(state_of(traffic(64, by_tokens, tokens)))

    assert wait.remedy is not None
    assert wait.remedy.setting == "judge.reasoning_effort=none"
    needed = 50 + 12 * 3
    short = simulate(64, lambda row, open_calls: 0.2 + 0.005 * needed)
    before = wait_of(simulate(64, by_tokens))
    assert wait.remedy.saved_s == pytest.approx(before - wait_of(short), rel=0.02)
    assert "take 94% of a call" in wait.text


def test_one_call_for_a_group_is_proposed_where_the_beginning_of_a_call_takes_its_time() -> None:
    tokens = [60 + row % 9 for row in range(ROWS)]
    slow_start: Latency = lambda row, open_calls: 2.0 + 0.002 * tokens[row]  # noqa: E731

    wait = hint(state_of(traffic(8, slow_start, tokens)))

    assert wait.remedy is not None
    assert wait.remedy.setting == "judge.mode=group"
    calls = 2.0 + 0.002 * 8 * sum(tokens) / ROWS  # eight of them, side by side, after the sampling
    before = wait_of(simulate(8, slow_start))
    assert wait.remedy.saved_s == pytest.approx(before - calls, rel=0.02)
    assert "with about 8 calls a step in place of 64" in wait.text


# --- panels, old runs, damage -------------------------------------------------


def test_the_slowest_judge_of_a_panel_is_named_and_the_others_limit_the_saving() -> None:
    fast = JudgeTraffic("fast", 8, "absolute", tuple(simulate(8, lambda row, open_calls: 0.5)))
    slow = JudgeTraffic("slow", 2, "absolute", tuple(simulate(2, lambda row, open_calls: 0.5)))

    wait = hint(state_of(fast, slow))

    assert wait.short_text.startswith("slow: concurrency=4: −")
    assert wait.remedy is not None
    assert wait.remedy.setting == "judge.panel.1.concurrency=4"
    assert wait.remedy.saved_s == pytest.approx(
        wait_of(slow.calls) - wait_of(simulate(4, lambda row, open_calls: 0.5)), rel=0.02
    )
    assert wait_of(slow.calls) - wait.remedy.saved_s > wait_of(fast.calls)


def test_calls_before_a_resume_say_nothing_about_the_settings_after_it() -> None:
    state = state_of(traffic(4, lambda row, open_calls: 0.5))
    resumed = fold_all([ev.Record(99, "2026-01-01T00:00:00.000Z", ev.RunResumed(5))], state)
    assert judge_wait(resumed) is None


def test_a_run_without_recorded_calls_gets_no_hint() -> None:
    events = synthetic_run.run_events(Path("run"), 8)
    records = (ev.Record(n, "2026-01-01T00:00:00.000Z", event) for n, event in enumerate(events))
    assert judge_wait(fold_all(records)) is None


def test_impossible_calls_of_a_damaged_file_are_harmless() -> None:
    odd = (
        JudgeCall(0.0, 5.0, 1.0), JudgeCall(0.0, 5.0, 1.0, 3, 4), JudgeCall(-9e15, 9e15, 9e15),
        *simulate(1, lambda row, open_calls: 0.5),
    )  # fmt: skip
    for slots in (-1, 0, 2**53):
        judge_wait(state_of(JudgeTraffic("judge", slots, "odd", odd)))


# --- the replay ---------------------------------------------------------------


def test_a_replay_with_the_same_slots_ends_when_the_calls_ended() -> None:
    for slots in (1, 3, 8, 100):
        calls = simulate(slots, noisy(0.5))
        assert replay(calls, slots) == pytest.approx(max(call.answered_s for call in calls))


def test_open_calls_are_counted_at_every_moment() -> None:
    calls = [JudgeCall(0, 0, 4), JudgeCall(0, 1, 3), JudgeCall(0, 2, 3)]
    opened = OpenCalls(calls)
    assert [opened.beside(call) for call in calls] == [1, 2, 3]
    assert opened.share_at_least(2, 0, 4) == pytest.approx(0.5)
    assert opened.share_at_least(3, 0, 4) == pytest.approx(0.25)
    assert opened.share_at_least(1, 3, 5) == pytest.approx(0.5)
