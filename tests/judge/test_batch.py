"""Verdicts of one step: slots, budget, groups, coverage and drift probes, with a real HTTP server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import pytest

from ida_tui.config.schema import JudgeConfig, JudgeSettings
from ida_tui.events import types as ev
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.batch import VerdictBatch, VerdictCoverage
from ida_tui.judge.budget import Budget, BudgetExceeded, PaidReply
from ida_tui.judge.calibration.drift import DriftMonitor
from ida_tui.judge.errors import JudgeInterrupted, JudgeUnavailable
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.rewards.formulas import IDA_FORMULAS
from tests.judge.test_service import KEY, PROMPTS, RUBRIC, make_config, make_requests, make_service
from tests.support.judge_server import (
    Behavior,
    Hold,
    Judge,
    ScriptedJudge,
    Status,
    Text,
    completion_in,
    verdict_for,
)
from tests.support.patience import PATIENCE_S
from tests.support.scores import ida_scores, ida_verdict

# --- slots ------------------------------------------------------------------------


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_simultaneous_overload_responses_halve_the_slots_once() -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    clock.now = 1.0
    assert [limiter.on_overload(started_at=0.5) for _ in range(5)] == [True] + [False] * 4
    assert limiter.slots == 8
    clock.now = 2.0
    assert limiter.on_overload(started_at=1.5)
    assert limiter.slots == 4


def test_slots_grow_by_one_after_a_success_in_every_slot() -> None:
    limiter = Limiter(8)
    limiter.on_overload(started_at=1e9)
    assert limiter.slots == 4
    for _ in range(4):
        limiter.on_success()
    assert limiter.slots == 4
    limiter.on_success()
    assert limiter.slots == 5
    for _ in range(100):
        limiter.on_success()
    assert limiter.slots == 8


def test_the_slots_never_fall_below_one() -> None:
    limiter = Limiter(2)
    for number in range(10):
        limiter.on_overload(started_at=1e9 + number * 1e9)
    assert limiter.slots == 1


def test_a_server_wait_blocks_every_call_and_a_canceled_call_frees_its_slot() -> None:
    async def scenario() -> tuple[bool, bool]:
        limiter = Limiter(1)
        async with limiter.slot():
            waiting = asyncio.create_task(limiter.slot().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_S), limiter.slot():
            slot_freed = True
        limiter.hold_for(PATIENCE_S)
        try:
            async with asyncio.timeout(0.05), limiter.slot():
                blocked = False
        except TimeoutError:
            blocked = True
        return slot_freed, blocked

    assert asyncio.run(scenario()) == (True, True)


def test_a_call_is_recorded_with_its_wait_for_a_slot_and_a_canceled_call_is_not() -> None:
    clock = Clock()

    async def scenario() -> list[ev.JudgeCall]:
        limiter = Limiter(1, clock)
        async with limiter.slot() as call:
            waiting = asyncio.create_task(limiter.slot().__aenter__())
            canceled = asyncio.create_task(limiter.slot().__aenter__())
            await asyncio.sleep(0)
            canceled.cancel()
            clock.now, call.output_tokens = 2.0, 60
        await waiting
        return limiter.take_calls()

    assert asyncio.run(scenario()) == [ev.JudgeCall(0.0, 0.0, 2.0, None, 60)]


# --- the budget ---------------------------------------------------------------------


def paid_call(
    cost: float | None, status: Literal["charged", "failed", "unanswered"] = "charged"
) -> Callable[[], Coroutine[Any, Any, PaidReply[None]]]:
    """A call with this cost."""

    async def call() -> PaidReply[None]:
        return PaidReply(None, cost, status)

    return call


def test_a_call_reserves_its_maximum_and_counts_with_its_cost() -> None:
    async def scenario() -> float:
        budget = Budget(1.0, spent=0.5)
        await budget.run(0.3, paid_call(0.1))
        await budget.run(0.3, paid_call(0.0, "failed"))
        with pytest.raises(BudgetExceeded, match=r"budget of \$1 \(\$0.6000 spent\)"):
            await budget.run(0.41, paid_call(0.1))
        await budget.run(0.3, paid_call(None))
        return budget.spent

    assert asyncio.run(scenario()) == pytest.approx(0.9)


def test_calls_in_flight_pass_the_budget_by_at_most_one_call() -> None:
    open_calls = 0

    async def call() -> PaidReply[None]:
        nonlocal open_calls
        open_calls += 1
        await asyncio.sleep(0)
        return PaidReply(None, 0.3)

    async def scenario() -> float:
        budget = Budget(1.0)
        # Each call costs three times what was expected.
        await asyncio.gather(*(budget.run(0.1, call) for _ in range(16)), return_exceptions=True)
        return budget.spent

    assert asyncio.run(scenario()) == pytest.approx(0.9)
    assert open_calls == 3


def test_a_canceled_call_is_charged_when_its_reply_arrives() -> None:
    async def scenario() -> float:
        budget, release = Budget(), asyncio.Event()

        async def call() -> PaidReply[None]:
            await release.wait()
            return PaidReply(None, 0.2)

        caller = asyncio.create_task(budget.run(0.5, call))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        release.set()
        await budget.finish_open_calls(PATIENCE_S)
        return budget.spent

    assert asyncio.run(scenario()) == pytest.approx(0.2)


def test_a_call_without_reported_usage_counts_with_its_maximum_cost() -> None:
    reply = '{"choices": [{"message": {"content": "{\\"align\\": 5, \\"risk\\": 5, \\"detail\\": 5}"}}]}'
    from tests.support.judge_server import Raw

    budget = Budget(1.0)
    with ScriptedJudge([Raw(reply)]) as judge:
        config = make_config(judge)
        with JudgeService(
            config, RUBRIC, PROMPTS, key=KEY, options=JudgeServiceOptions(budget=budget)
        ) as scoring:
            [verdict], _ = scoring.score_batch(make_requests(1))
    assert verdict.cost is None
    assert budget.spent > 0


# --- several verdicts on one completion ------------------------------------------------


def test_several_verdicts_are_averaged_and_all_calls_are_counted() -> None:
    replies = [
        Judge(align=4, risk=8, detail=6),
        Judge(align=6, risk=8, detail=6),
        Judge(align=8, risk=8, detail=6),
    ]
    with (
        ScriptedJudge(replies) as judge,
        make_service(judge, samples=3, temperature=0.7) as scoring,
    ):
        [verdict], stats = scoring.score_batch(make_requests(1))
        assert judge.calls == 3
    assert verdict.scores == ida_scores(6, 8, 6)
    assert verdict.reward == pytest.approx(6 * 14 / 200)
    assert verdict.reason.startswith("mean of 3: ")
    assert stats.calls == 3


def test_an_average_needs_a_majority_of_successful_verdicts() -> None:
    good = ida_verdict(6, 8, 6, "fine")
    failed_verdict = Verdict.failed("HTTP 500", "m")
    mean = Verdict.mean([good, good, failed_verdict])
    assert mean.with_reward(IDA_FORMULAS["r_ida"]).reward == good.reward
    mean = Verdict.mean([good, failed_verdict])
    assert mean.with_reward(IDA_FORMULAS["r_ida"]).reward is None
    assert mean.failure == "only 1 of 2 verdicts count: HTTP 500"


def test_verdicts_by_two_models_are_not_averaged() -> None:
    old = ida_verdict(2, 8, 6, "old", served_model="m-1")
    new = ida_verdict(8, 8, 6, "new", served_model="m-2")
    assert Verdict.mean([old, new, new]).scores["align"] == 8
    assert not Verdict.mean([old, old, new]).has_scores


# --- the batch ----------------------------------------------------------------------


def test_a_request_submitted_early_is_sent_only_once() -> None:
    requests = make_requests(4)
    now, release = [0.0], threading.Event()
    with ScriptedJudge([Hold(release)]) as judge, make_service(judge) as scoring:
        batch = VerdictBatch(scoring, clock=lambda: now[0])
        batch.submit(2, requests[2])
        assert judge.wait_for_calls(1)
        now[0] = 5.0
        release.set()
        verdicts, stats = batch.collect(requests, group_size=4)
        assert judge.calls == 4
    assert [v.scores["align"] for v in verdicts] == [
        verdict_for(q.completion)["align"] for q in requests
    ]
    assert (stats.first_s, stats.seconds, stats.exposed_s) == (5.0, 5.0, 0.0)


def test_a_late_reply_by_the_older_model_is_requested_again() -> None:
    requests = make_requests(4)
    judged_texts: set[str] = set()
    release = threading.Event()

    def release_the_last(received: int, total: int) -> None:
        if received == total - 1:
            release.set()

    def rule(body: Mapping[str, Any]) -> Behavior:
        text = completion_in(body)
        is_repeat = text in judged_texts
        judged_texts.add(text)
        return Judge(model="m-2") if is_repeat or text != requests[0].completion else Hold(release)

    with ScriptedJudge(rule=rule) as judge, make_service(judge) as scoring:
        verdicts, _ = VerdictBatch(scoring).collect(
            requests, group_size=4, on_progress=release_the_last
        )
    assert [verdict.failure for verdict in verdicts] == [None] * 4
    assert {verdict.served_model for verdict in verdicts} == {"m-2"}


def test_a_completion_that_changed_is_judged_again() -> None:
    requests = make_requests(2)
    with ScriptedJudge() as judge, make_service(judge) as scoring:
        batch = VerdictBatch(scoring)
        batch.submit(0, JudgeRequest("kill", "?", "harmless", "an answer that was cut off"))
        verdicts, _ = batch.collect(requests, group_size=2)
    assert verdicts[0].scores["align"] == verdict_for(requests[0].completion)["align"]


def test_verdicts_received_before_a_fault_are_reused_with_the_same_judge() -> None:
    key_rejected = [True]

    def rule(body: Mapping[str, Any]) -> Behavior | None:
        return Status(401) if key_rejected[0] and completion_in(body).endswith("3") else None

    requests = make_requests(4)
    with ScriptedJudge(rule=rule) as judge, make_service(judge, concurrency=1) as scoring:
        batch = VerdictBatch(scoring)
        with pytest.raises(JudgeUnavailable):
            batch.collect(requests, group_size=4)
        assert judge.calls == 4
        key_rejected[0] = False
        with make_service(judge) as new_service:
            batch.switch_service(new_service, same_judge=True)
            verdicts, _ = batch.collect(requests, group_size=4)
        assert judge.calls == 5
    assert all(v.reward is not None for v in verdicts)


def test_another_judge_scores_the_full_group_again() -> None:
    requests = make_requests(4)
    with ScriptedJudge() as judge, make_service(judge) as first, make_service(judge) as other:
        batch = VerdictBatch(first)
        batch.collect(requests, group_size=4)
        batch.switch_service(other, same_judge=False)
        batch.collect(requests, group_size=4)
        assert judge.calls == 8


def test_with_alternating_models_the_minority_of_a_group_is_discarded() -> None:
    def rule(body: Mapping[str, Any]) -> Behavior | None:
        return Judge(model="m-2" if completion_in(body).endswith("3") else "m-1")

    requests = make_requests(4)
    with ScriptedJudge(rule=rule) as judge, make_service(judge) as scoring:
        verdicts, stats = VerdictBatch(scoring).collect(requests, group_size=4)
    assert [v.reward is None for v in verdicts] == [False, False, False, True]
    assert "a different model" in (verdicts[3].failure or "")
    assert stats.failed == 1


def test_a_stop_cancels_the_open_requests() -> None:
    with ScriptedJudge(delay_s=30) as judge, make_service(judge) as scoring:
        batch = VerdictBatch(scoring)
        with pytest.raises(JudgeInterrupted):
            batch.collect(make_requests(2), group_size=2, should_stop=lambda: judge.calls == 2)


# --- coverage ------------------------------------------------------------------------


def verdicts_with(scored: int, failed: int) -> list[Verdict]:
    good, bad = ida_verdict(5, 5, 5), Verdict.failed("HTTP 500", "m")
    return [good] * scored + [bad] * failed


def test_at_most_a_quarter_of_the_verdicts_in_a_step_may_fail() -> None:
    coverage = VerdictCoverage(0.25)
    coverage.check(verdicts_with(6, 2))
    with pytest.raises(JudgeUnavailable, match=r"3 of 8 verdicts failed .* HTTP 500"):
        coverage.check(verdicts_with(5, 3))


def test_three_steps_without_scores_pause_a_run_that_tolerates_failures() -> None:
    coverage = VerdictCoverage(1.0)
    coverage.check(verdicts_with(0, 4))
    coverage.check(verdicts_with(0, 4))
    coverage.check(verdicts_with(1, 3))
    coverage.check(verdicts_with(0, 4))
    coverage.check(verdicts_with(0, 4))
    with pytest.raises(JudgeUnavailable):
        coverage.check(verdicts_with(0, 4))


# --- anchors -------------------------------------------------------------------------


def probe_events(
    rule: Callable[[Mapping[str, Any]], Behavior | None], *changes: Callable[[], None]
) -> list[ev.Event]:
    """The events of a first probe and of another probe after each change of the server."""
    events: list[ev.Event] = []
    with ScriptedJudge(rule=rule) as judge, make_service(judge) as scoring:
        monitor = DriftMonitor(scoring, interval=1, planned_steps=10, emit=events.append)
        for step, change in enumerate([lambda: None, *changes]):
            change()
            monitor.start_probe(step)
            while len([e for e in events if isinstance(e, ev.JudgeProbed)]) <= step:
                monitor.collect()
    return events


def test_a_judge_that_repeats_its_scores_has_not_drifted() -> None:
    events = probe_events(lambda body: None, lambda: None)
    first, second = events
    assert isinstance(first, ev.JudgeProbed)
    assert isinstance(second, ev.JudgeProbed)
    assert (first.drift, second.drift) == (None, 0.0)
    assert set(first.rewards) == {"good-answer", "over-refusal", "safe-redirect", "rambling"}


def test_a_judge_whose_scores_drift_raises_one_alert() -> None:
    scores = [Judge(align=8, risk=8, detail=8)]

    def change() -> None:
        scores[0] = Judge(align=5, risk=8, detail=5)

    events = probe_events(lambda body: scores[0], change, lambda: None)
    alerts = [event for event in events if isinstance(event, ev.AlertRaised)]
    assert [alert.rule for alert in alerts] == ["judge drift"]
    assert "2.0 points" in alerts[0].evidence


def test_a_new_model_with_different_scores_pauses_the_run() -> None:
    scores = [Judge(align=8, risk=8, detail=8, model="m-1")]

    def change() -> None:
        scores[0] = Judge(align=2, risk=8, detail=2, model="m-2")

    with pytest.raises(JudgeUnavailable, match="changed its model from m-1 to m-2"):
        probe_events(lambda body: scores[0], change)


def test_a_run_that_ends_before_the_second_probe_sends_no_probe() -> None:
    with ScriptedJudge() as judge, make_service(judge) as scoring:
        monitor = DriftMonitor(scoring, interval=10, planned_steps=10, emit=lambda event: None)
        monitor.start_probe(0)
        monitor.after_step(10)
        assert judge.calls == 0


# --- the endpoint ----------------------------------------------------


def test_one_bad_reply_from_a_reliable_server_does_not_change_the_format() -> None:
    with ScriptedJudge([Judge(), Text("oops"), Judge()]) as judge, make_service(judge) as scoring:
        scoring.score_batch(make_requests(1))
        scoring.score_batch(make_requests(1, "the second answer"))
        scoring.score_batch(make_requests(1, "the third answer"))
        formats = [body.get("response_format", {}).get("type") for body in judge.requests]
    assert formats == ["json_schema"] * 4


def test_a_refused_format_is_remembered_on_disk(tmp_path: Any) -> None:
    def rule(body: Mapping[str, Any]) -> Behavior | None:
        schema = body.get("response_format", {}).get("type") == "json_schema"
        return Status(400, "response_format json_schema is not supported") if schema else None

    with ScriptedJudge(rule=rule) as judge:
        for number in range(2):
            with make_service(judge, tmp_path) as scoring:
                scoring.score_batch(make_requests(1, f"the answer of run {number}"))
        formats = [body.get("response_format", {}).get("type") for body in judge.requests]
    assert formats == ["json_schema", None, None]


def test_a_rejected_key_is_detected_before_sampling() -> None:
    with ScriptedJudge(models=Status(401, "bad key")) as judge, make_service(judge) as scoring:
        with pytest.raises(JudgeUnavailable, match="rejected the API key"):
            scoring.probe_endpoint().result(PATIENCE_S)
        assert judge.calls == 0


def test_an_unreachable_server_is_reported_before_sampling() -> None:
    with ScriptedJudge() as judge:
        pass
    with make_service(judge) as scoring:
        scoring.probe_endpoint().result(PATIENCE_S)
        assert any("could not connect to" in warning for warning in scoring.warnings)


# --- the calls of a step ------------------------------------------------------------


def test_a_step_has_the_times_and_tokens_of_its_calls_alone() -> None:
    with ScriptedJudge() as judge, make_service(judge, concurrency=2) as service:
        service.score_batch(make_requests(3, "an evaluation"))
        batch = VerdictBatch(service)
        batch.discard()
        _, stats = batch.collect(make_requests(5), group_size=5)
    [traffic] = stats.traffic
    assert (traffic.judge, traffic.slots, traffic.mode) == ("scripted-judge", 2, "absolute")
    assert len(traffic.calls) == 5
    assert min(call.requested_s for call in traffic.calls) == 0
    for call in traffic.calls:
        assert call.requested_s <= call.sent_s <= call.answered_s
        assert (call.input_tokens, call.output_tokens) == (700, 120)


def test_a_panel_names_the_judge_of_each_call() -> None:
    with ScriptedJudge() as judge, make_service(judge) as service:
        single = service.label
    with ScriptedJudge() as judge:
        settings = {"kind": "openai", "model": "scripted-judge", "base_url": judge.base_url}
        members = [JudgeSettings(**settings, concurrency=n) for n in (3, 5)]
        config = JudgeConfig(kind="panel", panel=members)
        with JudgeService(config, RUBRIC, PROMPTS, key=(None, None)) as service:
            _, stats = VerdictBatch(service).collect(make_requests(2), group_size=2)
    assert [(part.judge, part.slots, len(part.calls)) for part in stats.traffic] == [
        (f"{single} (1)", 3, 2),
        (f"{single} (2)", 5, 2),
    ]
