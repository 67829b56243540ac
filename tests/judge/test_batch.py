"""One step's verdicts: slots, budget, groups, coverage, anchors; over a real server where one is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ida_tui.events import types as ev
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.batch import VerdictBatch, VerdictCoverage
from ida_tui.judge.budget import Budget, BudgetExceeded
from ida_tui.judge.calibration.drift import DriftMonitor
from ida_tui.judge.errors import JudgeInterrupted, JudgeUnavailable
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest, Verdict
from tests.judge.test_service import KEY, PROMPTS, RUBRIC, questions, service
from tests.support.judge_server import (
    Behavior,
    Judge,
    ScriptedJudge,
    Stall,
    Status,
    Text,
    completion_in,
    verdict_for,
)

# --- slots ------------------------------------------------------------------------


class Clock:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_calls_that_are_turned_away_together_halve_the_slots_once() -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    clock.now = 1.0
    assert [limiter.on_overload(started_at=0.5) for _ in range(5)] == [True] + [False] * 4
    assert limiter.slots == 8
    clock.now = 2.0
    assert limiter.on_overload(started_at=1.5)
    assert limiter.slots == 4


def test_slots_grow_back_by_one_for_as_many_answers_as_there_are_slots() -> None:
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
    for moment in range(10):
        limiter.on_overload(started_at=1e9 + moment * 1e9)
    assert limiter.slots == 1


def test_a_named_wait_holds_every_call_and_a_given_up_call_frees_its_slot() -> None:
    async def scene() -> tuple[bool, bool]:
        limiter = Limiter(1)
        async with limiter.slot():
            waiting = asyncio.create_task(limiter.slot().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), limiter.slot():
            free = True
        limiter.hold_for(60)
        try:
            async with asyncio.timeout(0.05), limiter.slot():
                held = False
        except TimeoutError:
            held = True
        return free, held

    assert asyncio.run(scene()) == (True, True)


# --- the budget ---------------------------------------------------------------------


def test_money_is_set_aside_before_a_call_and_counted_after_it() -> None:
    purse = Budget(1.0, spent=0.5)
    purse.reserve(0.3)
    with pytest.raises(BudgetExceeded, match=r"budget of \$1 \(\$0.5000 spent\)"):
        purse.reserve(0.3)
    purse.commit(0.3, 0.1)
    purse.reserve(0.3)
    purse.commit(0.3, None)
    assert purse.spent == pytest.approx(0.9)


def test_a_server_that_reports_no_usage_counts_at_what_it_may_cost() -> None:
    reply = '{"choices": [{"message": {"content": "{\\"align\\": 5, \\"risk\\": 5, \\"detail\\": 5}"}}]}'
    from tests.support.judge_server import Raw

    purse = Budget(1.0)
    with ScriptedJudge([Raw(reply)]) as judge:
        config = service(judge)._config
        with JudgeService(
            config, RUBRIC, PROMPTS, key=KEY, options=JudgeServiceOptions(budget=purse)
        ) as scoring:
            [verdict], _ = scoring.score_batch(questions(1))
    assert verdict.cost is None
    assert purse.spent > 0


# --- several judgements of one completion ------------------------------------------------


def test_k_judgements_are_averaged_and_all_of_them_are_counted() -> None:
    replies = [
        Judge(align=4, risk=8, detail=6),
        Judge(align=6, risk=8, detail=6),
        Judge(align=8, risk=8, detail=6),
    ]
    with ScriptedJudge(replies) as judge, service(judge, samples=3, temperature=0.7) as scoring:
        [verdict], stats = scoring.score_batch(questions(1))
        assert judge.calls == 3
    assert (verdict.align, verdict.risk, verdict.detail) == (6, 8, 6)
    assert verdict.r_ida == pytest.approx(6 * 14 / 200)
    assert verdict.reason.startswith("mean of 3: ")
    assert stats.calls == 3


def test_most_of_k_judgements_have_to_work() -> None:
    good = Verdict.scored(6, 8, 6, "fine", "m")
    bad = Verdict.failed("HTTP 500", "m")
    assert Verdict.mean([good, good, bad]).r_ida == good.r_ida
    failed = Verdict.mean([good, bad])
    assert failed.r_ida is None
    assert failed.failure == "only 1 of 2 verdicts count: HTTP 500"


def test_judgements_by_two_models_are_not_averaged() -> None:
    old = Verdict.scored(2, 8, 6, "old", "m", served_model="m-1")
    new = Verdict.scored(8, 8, 6, "new", "m", served_model="m-2")
    assert Verdict.mean([old, new, new]).align == 8
    assert Verdict.mean([old, old, new]).r_ida is None


# --- the docket ----------------------------------------------------------------------


def test_a_question_asked_early_is_asked_once_and_waits_for_nobody() -> None:
    asked = questions(4)
    with ScriptedJudge() as judge, service(judge) as scoring:
        docket = VerdictBatch(scoring)
        docket.submit(2, asked[2])
        assert judge.wait_for_calls(1)
        verdicts, stats = docket.collect(asked, group_size=4)
        assert judge.calls == 4
    assert [v.align for v in verdicts] == [verdict_for(q.completion)["align"] for q in asked]
    assert stats.first_s is not None
    assert stats.exposed_s <= stats.seconds + 0.05


def test_a_reply_of_the_older_model_that_comes_in_last_leaves_nothing_without_scores() -> None:
    asked = questions(4)
    seen: set[str] = set()

    def rule(body: Mapping[str, Any]) -> Behavior:
        text = completion_in(body)
        again = text in seen
        seen.add(text)
        return Judge(model="m-2") if again or text != asked[0].completion else Stall(0.3)

    with ScriptedJudge(rule=rule) as judge, service(judge) as scoring:
        verdicts, _ = VerdictBatch(scoring).collect(asked, group_size=4)
    assert [verdict.failure for verdict in verdicts] == [None] * 4
    assert {verdict.served_model for verdict in verdicts} == {"m-2"}


def test_a_completion_that_turned_out_otherwise_is_asked_anew() -> None:
    asked = questions(2)
    with ScriptedJudge() as judge, service(judge) as scoring:
        docket = VerdictBatch(scoring)
        docket.submit(0, JudgeRequest("kill", "?", "harmless", "an answer that was cut off"))
        verdicts, _ = docket.collect(asked, group_size=2)
    assert verdicts[0].align == verdict_for(asked[0].completion)["align"]


def test_verdicts_that_came_before_a_fault_are_kept_for_the_same_judge() -> None:
    bad = [True]

    def rule(body: Mapping[str, Any]) -> Behavior | None:
        return Status(401) if bad[0] and completion_in(body).endswith("3") else None

    asked = questions(4)
    with ScriptedJudge(rule=rule) as judge, service(judge, concurrency=1) as scoring:
        docket = VerdictBatch(scoring)
        with pytest.raises(JudgeUnavailable):
            docket.collect(asked, group_size=4)
        assert judge.calls == 4
        bad[0] = False
        with service(judge) as renewed:
            docket.switch_service(renewed, same_judge=True)
            verdicts, _ = docket.collect(asked, group_size=4)
        assert judge.calls == 5
    assert all(v.r_ida is not None for v in verdicts)


def test_another_judge_scores_the_whole_group_again() -> None:
    asked = questions(4)
    with ScriptedJudge() as judge, service(judge) as first, service(judge) as other:
        docket = VerdictBatch(first)
        docket.collect(asked, group_size=4)
        docket.switch_service(other, same_judge=False)
        docket.collect(asked, group_size=4)
        assert judge.calls == 8


def test_a_server_that_keeps_switching_models_loses_the_smaller_part_of_the_group() -> None:
    def rule(body: Mapping[str, Any]) -> Behavior | None:
        return Judge(model="m-2" if completion_in(body).endswith("3") else "m-1")

    asked = questions(4)
    with ScriptedJudge(rule=rule) as judge, service(judge) as scoring:
        verdicts, stats = VerdictBatch(scoring).collect(asked, group_size=4)
    assert [v.r_ida is None for v in verdicts] == [False, False, False, True]
    assert "a different model" in (verdicts[3].failure or "")
    assert stats.failed == 1


def test_a_stop_gives_the_open_questions_up() -> None:
    with ScriptedJudge(delay_s=30) as judge, service(judge) as scoring:
        docket = VerdictBatch(scoring)
        with pytest.raises(JudgeInterrupted):
            docket.collect(questions(2), group_size=2, should_stop=lambda: judge.calls == 2)


# --- coverage ------------------------------------------------------------------------


def of(scored: int, missing: int) -> list[Verdict]:
    good, bad = Verdict.scored(5, 5, 5, "", "m"), Verdict.failed("HTTP 500", "m")
    return [good] * scored + [bad] * missing


def test_a_quarter_of_a_step_may_lack_a_verdict_and_no_more() -> None:
    coverage = VerdictCoverage(0.25)
    coverage.check(of(6, 2))
    with pytest.raises(JudgeUnavailable, match=r"3 of 8 verdicts failed .* HTTP 500"):
        coverage.check(of(5, 3))


def test_three_steps_without_any_verdict_pause_even_a_patient_run() -> None:
    coverage = VerdictCoverage(1.0)
    coverage.check(of(0, 4))
    coverage.check(of(0, 4))
    coverage.check(of(1, 3))
    coverage.check(of(0, 4))
    coverage.check(of(0, 4))
    with pytest.raises(JudgeUnavailable):
        coverage.check(of(0, 4))


# --- anchors -------------------------------------------------------------------------


def probed(
    rule: Callable[[Mapping[str, Any]], Behavior | None], *changes: Callable[[], None]
) -> list[ev.Event]:
    """The events of a first probe, and of one more after each change of the server."""
    events: list[ev.Event] = []
    with ScriptedJudge(rule=rule) as judge, service(judge) as scoring:
        probes = DriftMonitor(scoring, interval=1, planned_steps=10, emit=events.append)
        for step, change in enumerate([lambda: None, *changes]):
            change()
            probes.start_probe(step)
            while len([e for e in events if isinstance(e, ev.JudgeProbed)]) <= step:
                probes.collect()
    return events


def test_a_judge_that_says_the_same_again_has_not_drifted() -> None:
    events = probed(lambda body: None, lambda: None)
    first, second = events
    assert isinstance(first, ev.JudgeProbed)
    assert isinstance(second, ev.JudgeProbed)
    assert (first.drift, second.drift) == (None, 0.0)
    assert set(first.r_ida) == {"good-answer", "over-refusal", "safe-redirect", "rambling"}


def test_a_judge_that_scores_the_same_answers_otherwise_raises_an_alert_once() -> None:
    scores = [Judge(align=8, risk=8, detail=8)]

    def change() -> None:
        scores[0] = Judge(align=5, risk=8, detail=5)

    events = probed(lambda body: scores[0], change, lambda: None)
    alerts = [event for event in events if isinstance(event, ev.AlertRaised)]
    assert [alert.rule for alert in alerts] == ["judge drift"]
    assert "2.0 points" in alerts[0].evidence


def test_another_model_that_scores_otherwise_pauses_the_run() -> None:
    scores = [Judge(align=8, risk=8, detail=8, model="m-1")]

    def change() -> None:
        scores[0] = Judge(align=2, risk=8, detail=2, model="m-2")

    with pytest.raises(JudgeUnavailable, match="changed its model from m-1 to m-2"):
        probed(lambda body: scores[0], change)


def test_a_run_that_ends_before_the_second_probe_asks_none() -> None:
    with ScriptedJudge() as judge, service(judge) as scoring:
        probes = DriftMonitor(scoring, interval=10, planned_steps=10, emit=lambda event: None)
        probes.start_probe(0)
        probes.after_step(10)
        assert judge.calls == 0


# --- what the endpoint is found to be ----------------------------------------------------


def test_one_bad_reply_from_a_server_that_keeps_to_the_format_changes_no_format() -> None:
    with ScriptedJudge([Judge(), Text("oops"), Judge()]) as judge, service(judge) as scoring:
        scoring.score_batch(questions(1))
        scoring.score_batch(questions(1, "the second answer"))
        scoring.score_batch(questions(1, "the third answer"))
        formats = [body.get("response_format", {}).get("type") for body in judge.requests]
    assert formats == ["json_schema"] * 4


def test_what_a_server_refuses_is_found_out_once_and_kept_on_disk(tmp_path: Any) -> None:
    def rule(body: Mapping[str, Any]) -> Behavior | None:
        schema = body.get("response_format", {}).get("type") == "json_schema"
        return Status(400, "response_format json_schema is not supported") if schema else None

    with ScriptedJudge(rule=rule) as judge:
        for number in range(2):
            with service(judge, tmp_path) as scoring:
                scoring.score_batch(questions(1, f"the answer of run {number}"))
        formats = [body["response_format"]["type"] for body in judge.requests]
    assert formats == ["json_schema", "json_object", "json_object"]


def test_a_key_that_is_refused_is_found_out_before_a_completion_is_sampled() -> None:
    with ScriptedJudge(models=Status(401, "bad key")) as judge, service(judge) as scoring:
        with pytest.raises(JudgeUnavailable, match="rejected the API key"):
            scoring.probe_endpoint().result(10)
        assert judge.calls == 0


def test_a_server_that_is_not_there_is_told_of_before_a_completion_is_sampled() -> None:
    with ScriptedJudge() as judge:
        pass
    with service(judge) as scoring:
        scoring.probe_endpoint().result(10)
        assert any("could not connect to" in warning for warning in scoring.warnings)
