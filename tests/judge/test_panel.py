"""Panels of several judges, and checks that come with a prompt's row, at real HTTP servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.schema import JudgeConfig, JudgeKey, JudgeSettings, Prompt, PromptSet
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.events.codec import decode, encode
from ida_tui.judge.api_key import load_api_key
from ida_tui.judge.batch import VerdictBatch, VerdictCoverage
from ida_tui.judge.budget import Budget
from ida_tui.judge.cache.key import CacheKeyBuilder, scoring_parts
from ida_tui.judge.calibration.check import as_json, check_judge
from ida_tui.judge.calibration.check_text import render_report
from ida_tui.judge.calibration.drift import DriftMonitor
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest
from tests.judge.test_service import CALL_COST, PRICE, PROMPTS, RUBRIC, make_requests
from tests.support.judge_server import Judge, ScriptedJudge, Status, completion_in, group_in
from tests.support.patience import PATIENCE_S

AXES = ("align", "risk", "detail")


def member(judge: ScriptedJudge, name: str, **changes: Any) -> JudgeSettings:
    fields: dict[str, Any] = {
        "kind": "openai",
        "model": name,
        "base_url": judge.base_url,
        "price": PRICE,
        "cache": False,
        "max_retries": 0,
        "concurrency": 1,
        "timeout_s": PATIENCE_S,
    }
    return JudgeSettings(**fields | changes)


def panel_config(*members: JudgeSettings, **changes: Any) -> JudgeConfig:
    return JudgeConfig(kind="panel", panel=list(members), **changes)


def panel_service(config: JudgeConfig, key: JudgeKey = None, **options: Any) -> JudgeService:
    return JudgeService(
        config,
        RUBRIC,
        PROMPTS,
        key=key,
        options=JudgeServiceOptions(retry_base_s=0.001, **options),
    )


def scoring(align: float) -> Any:
    """A rule for a judge that gives every completion this score on align, and 5 on the others."""
    return lambda body: Judge(align=align, risk=5, detail=5)


def down_for(text: str) -> Any:
    """A rule for a judge that fails on completions with this text."""
    return lambda body: Status(500) if text in completion_in(body) else Judge(5, 5, 5)


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts judge servers, which end with the test."""
    with ExitStack() as stack:
        yield lambda rule: stack.enter_context(ScriptedJudge(rule=rule))


# --- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "align"), [("mean", 6.0), ("median", 7.0)])
def test_a_score_is_the_mean_or_the_median_of_the_judges(
    start: Any, score: str, align: float
) -> None:
    judges = [start(scoring(value)) for value in (2, 7, 9)]
    members = [member(judge, name) for judge, name in zip(judges, "abc", strict=True)]
    with panel_service(panel_config(*members, panel_score=score)) as service:
        [verdict], stats = service.score_batch(make_requests(1))
        assert service.label == f"{score} of a, b and c"
    assert verdict.scores == {"align": align, "risk": 5, "detail": 5}
    assert verdict.spread == {"align": 7, "risk": 0, "detail": 0}
    assert verdict.reason.startswith(
        f"{score} of 3 judges, which differ on align by 7. b: scripted"
    )
    assert (stats.calls, stats.failed) == (3, 0)
    assert stats.cost == pytest.approx(3 * CALL_COST)
    assert stats.members == tuple(ev.JudgeMember(name, 1, 1) for name in "abc")
    assert stats.spread == {"align": 7, "risk": 0, "detail": 0}


def test_a_group_is_one_call_of_each_judge(start: Any) -> None:
    judges = [start(None), start(None)]
    members = [member(judge, name) for judge, name in zip(judges, "ab", strict=True)]
    with panel_service(panel_config(*members, mode="group")) as service:
        verdicts, stats = VerdictBatch(service).collect(make_requests(8), group_size=4)
    for judge in judges:
        assert [len(group_in(body)) for body in judge.requests] == [4, 4]
    assert all(verdict.has_scores for verdict in verdicts)
    assert (stats.calls, stats.cost) == (4, pytest.approx(4 * CALL_COST))


def test_empty_completions_are_sent_to_no_judge(start: Any) -> None:
    judge = start(None)
    requests = [JudgeRequest("kill", "?", "harmless", " ")]
    with panel_service(panel_config(member(judge, "a"), member(judge, "b"))) as service:
        verdicts, _ = service.score_batch(requests)
    assert judge.calls == 0
    assert verdicts[0].scores == dict.fromkeys(AXES, 0.0)
    assert verdicts[0].judge == "mean of a and b"


def test_short_answers_are_sent_to_every_judge(start: Any) -> None:
    first, second = start(None), start(None)
    requests = [JudgeRequest("kill", "?", "harmless", text) for text in ("7", "🙂", "対")]
    with panel_service(panel_config(member(first, "a"), member(second, "b"))) as service:
        verdicts, _ = service.score_batch(requests)
    assert (first.calls, second.calls) == (3, 3)
    assert all(verdict.has_scores for verdict in verdicts)


# --- a judge that is down -----------------------------------------------------------------------


def test_a_panel_of_two_with_one_down_scores_nothing_and_says_which(start: Any) -> None:
    up, down = start(scoring(5)), start(lambda body: Status(503))
    with panel_service(panel_config(member(up, "a"), member(down, "b"))) as service:
        verdicts, stats = VerdictBatch(service).collect(make_requests(4), group_size=4)
    assert not any(verdict.has_scores for verdict in verdicts)
    assert stats.members[0] == ev.JudgeMember("a", 4, 4)
    assert stats.members[1][:3] == ("b", 0, 4)
    with pytest.raises(
        JudgeUnavailable, match=r"4 of 4 .* only 1 of 2 judges answered; b: HTTP 503"
    ):
        VerdictCoverage(0.25).check(verdicts)


def test_within_a_group_all_scores_come_from_the_same_judges(start: Any) -> None:
    flaky = start(down_for("number 1"))
    judges = [start(scoring(2)), start(scoring(4)), flaky]
    members = [member(judge, name) for judge, name in zip(judges, "abc", strict=True)]
    with panel_service(panel_config(*members)) as service:
        batch = VerdictBatch(service)
        verdicts, stats = batch.collect(
            [*make_requests(3), *make_requests(3, "other text")], group_size=3
        )
    assert [verdict.scores["align"] for verdict in verdicts] == [3, 3, 3, *[11 / 3] * 3]
    assert ["without c" in verdict.reason for verdict in verdicts[1:4]] == [True, False, False]
    assert stats.failed == 0
    assert [m.scored for m in stats.members] == [6, 6, 5]


def test_a_completion_that_one_judge_of_its_group_missed_is_failed_not_mixed(start: Any) -> None:
    judges = [start(scoring(2)), start(down_for("number 0")), start(down_for("number 1"))]
    members = [member(judge, name) for judge, name in zip(judges, "abc", strict=True)]
    with panel_service(panel_config(*members)) as service:
        verdicts, _ = VerdictBatch(service).collect(make_requests(4), group_size=4)
    scored = [verdict for verdict in verdicts if verdict.has_scores]
    assert len(scored) == 3
    assert {verdict.scores["align"] for verdict in scored} == {3.5}
    assert [v.failure for v in verdicts if not v.has_scores] == [
        "b, which scored the rest of its group: HTTP 500: scripted fault"
    ]


def test_a_judge_that_cannot_be_used_is_left_out_with_one_warning_while_most_answer(
    start: Any,
) -> None:
    judges = [start(scoring(2)), start(scoring(4)), start(lambda body: Status(404))]
    members = [member(judge, name) for judge, name in zip(judges, "abc", strict=True)]
    with panel_service(panel_config(*members)) as service:
        verdicts, _ = VerdictBatch(service).collect(make_requests(4), group_size=4)
        assert [w for w in service.warnings if "without c" in w] == [
            "the panel scores without c: the judge c was not found at 127.0.0.1"
        ]
    assert {verdict.scores["align"] for verdict in verdicts} == {3.0}
    with (
        panel_service(panel_config(*members[1:])) as service,
        pytest.raises(JudgeUnavailable, match="the judge c was not found"),
    ):
        VerdictBatch(service).collect(make_requests(2), group_size=2)


# --- keys, costs, cache, scoring ----------------------------------------------------------------


def test_the_key_of_a_judge_goes_only_to_its_server(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = start(None), start(None)
    monkeypatch.setenv("FIRST_KEY", "sk-first-0123456789")
    monkeypatch.setenv("SECOND_KEY", "sk-second-0123456789")
    config = panel_config(
        member(first, "a", api_key_env="FIRST_KEY"), member(second, "b", api_key_env="SECOND_KEY")
    )
    key = load_api_key(config, dotenv_dir=tmp_path)
    assert key == ("sk-first-0123456789", "sk-second-0123456789")
    with panel_service(config, key) as service:
        service.score_batch(make_requests(2))
    assert set(first.authorizations) == {"Bearer sk-first-0123456789"}
    assert set(second.authorizations) == {"Bearer sk-second-0123456789"}
    with pytest.raises(UsageError, match="keys of their own"):
        panel_service(config, "sk-one-key")


def test_the_judges_share_the_budget_and_a_free_one_reserves_nothing(start: Any) -> None:
    paid, free = start(None), start(None)
    config = panel_config(
        member(paid, "a"), member(free, "b", price={"input": 0, "output": 0}, concurrency=8)
    )
    budget = Budget(limit=1.0)
    with panel_service(config, budget=budget) as service:
        service.score_batch(make_requests(4))
        assert service.spent == pytest.approx(4 * CALL_COST)


def test_each_judge_has_its_own_cache_entries(start: Any, tmp_path: Path) -> None:
    judges = [start(scoring(2)), start(scoring(4))]
    config = panel_config(
        *(member(judge, name, cache=True) for judge, name in zip(judges, "ab", strict=True))
    )
    for _ in range(2):
        with panel_service(config, cache_dir=tmp_path) as service:
            verdicts, stats = service.score_batch(make_requests(3))
    assert [judge.calls for judge in judges] == [3, 3]
    assert {verdict.scores["align"] for verdict in verdicts} == {3.0}
    assert (stats.calls, stats.cached, stats.cost) == (0, 3, 0)


def test_another_judge_or_another_mean_is_another_scoring(start: Any) -> None:
    judge = start(None)

    def parts(config: JudgeConfig) -> dict[str, str]:
        return JudgeService(config, RUBRIC, PROMPTS, key=None).scoring

    base = panel_config(member(judge, "a"), member(judge, "b"))
    changed = [
        panel_config(member(judge, "a"), member(judge, "c")),
        panel_config(member(judge, "a"), member(judge, "b", temperature=0.5)),
        panel_config(*base.panel, panel_score="median"),
        panel_config(*base.panel, mode="group"),
    ]
    all_parts = [parts(config) for config in (base, *changed)]
    assert len({tuple(sorted(p.items())) for p in all_parts}) == 5
    assert parts(panel_config(*base.panel)) == all_parts[0]


# --- drift, check, events -----------------------------------------------------------------------


def test_a_panel_without_one_of_its_judges_does_not_count_as_drift(start: Any) -> None:
    events: list[ev.Event] = []
    broken = False
    judges = [
        start(scoring(2)),
        start(scoring(2)),
        start(lambda body: Status(500) if broken else Judge(9, 9, 9)),
    ]
    members = [member(judge, name) for judge, name in zip(judges, "abc", strict=True)]
    with panel_service(panel_config(*members)) as service:
        monitor = DriftMonitor(service, interval=1, planned_steps=9, emit=events.append)
        monitor.start_probe(0)
        for future in list(monitor._pending.values()):
            future.result(10)
        monitor.after_step(1)
        broken = True
        for future in list(monitor._pending.values()):
            future.result(10)
        monitor.after_step(2)
        monitor.cancel()
    assert not [event for event in events if isinstance(event, ev.AlertRaised)]


def test_the_check_reports_on_the_panel_and_on_each_of_its_judges(start: Any) -> None:
    judges = [start(scoring(2)), start(scoring(4))]
    config = panel_config(*(member(judge, name) for judge, name in zip(judges, "ab", strict=True)))
    with panel_service(config) as service:
        report = check_judge(service, verdicts_per_anchor=1)
    assert [own.judge for own in report.members] == ["a", "b"]
    assert report.members[1].anchors[0].mean_score("align") == 4
    assert report.anchors[0].mean_score("align") == 3
    assert not report.trusted
    assert len(as_json(report)["members"]) == 2  # type: ignore[arg-type]
    lines = list(render_report(report, "", [], offline=False))
    assert "a, a judge of the panel:" in lines


def test_the_figures_of_a_panel_survive_the_event_log() -> None:
    batch = ev.JudgeBatchFinished(
        1, 8, 0, 1, 0, 1.0, 0.5, None, None, None,
        members=(ev.JudgeMember("a", 3, 4, "HTTP 500"),), spread={"align": 1.5},
    )  # fmt: skip
    record = ev.Record(1, "2026-01-01T00:00:00.000Z", batch)
    assert decode(encode(record)).event == batch


# --- checks of a row ----------------------------------------------------------------------------


def test_checks_of_a_row_are_shown_to_the_judge_and_are_part_of_the_key() -> None:
    prompt = Prompt(
        id="p", kind="harmless", text="Why?", columns={"rubric": ["names a cause ", "", "is short"]}
    )
    assert prompt.checks == ("names a cause", "is short")
    assert Prompt(id="p", kind="harmless", text="?", columns={"rubric": "one"}).checks == ("one",)
    plain = JudgeRequest("p", "Why?", "harmless", "Because.")
    checked = JudgeRequest("p", "Why?", "harmless", "Because.", checks=prompt.checks)
    with ScriptedJudge() as judge:
        config = JudgeConfig(**member(judge, "a").model_dump())
        with JudgeService(config, RUBRIC, PROMPTS, key=None) as service:
            service.score_batch([plain])
            service.score_batch([checked])
        texts = [body["messages"][-1]["content"] for body in judge.requests]
    assert "Additional checks" not in texts[0]
    assert '["names a cause", "is short"]' in texts[1]
    keys = CacheKeyBuilder.for_endpoint(config, RUBRIC)
    assert keys.build(plain) != keys.build(checked)
    sets = [
        PromptSet(prompts=[prompt.model_copy(update={"columns": c})]) for c in ({}, prompt.columns)
    ]
    assert scoring_parts(config, RUBRIC, sets[0]) != scoring_parts(config, RUBRIC, sets[1])
