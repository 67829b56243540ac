"""A rubric with two axes of its own against the loopback judge server, and with a judge plugin."""

from __future__ import annotations

import importlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure, parse_verdict
from ida_tui.judge.backends.openai.prompt import render_messages, system_message, verdict_schema
from ida_tui.judge.cache.key import CacheKeyBuilder, scoring_parts
from ida_tui.judge.cache.store import FILE_NAME
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest, Verdict
from tests.support.judge_server import Judge, ScriptedJudge, Status, Text, axes_in

AXES = ("tone", "brief")
AXIS_TEXTS: dict[str, Any] = {
    "tone": {"zero": "rude", "ten": "kind", "checks": ["An insult: at most 2."]},
    "brief": {"zero": "rambles", "ten": "one sentence", "best": "shortest"},
}
ANSWER = "Mix flour and water, then bake."


def make_rubric(**changes: Any) -> RubricConfig:
    return RubricConfig.model_validate(
        {"task": "Grade a support answer.", "axes": AXIS_TEXTS, "formula": "tone/10 * brief/10"}
        | changes
    )


RUBRIC = make_rubric()


def make_service(
    judge: ScriptedJudge, folder: Path | None = None, rubric: RubricConfig = RUBRIC, **changes: Any
) -> JudgeService:
    fields: dict[str, Any] = {"kind": "openai", "model": "m", "base_url": judge.base_url}
    config = JudgeConfig(**fields | {"cache": folder is not None} | changes)
    options = JudgeServiceOptions(cache_dir=folder, retry_base_s=0.001)
    return JudgeService(config, rubric, PromptSet(prompts=[]), key=None, options=options)


def request_verdict(service: JudgeService, completion: str = ANSWER) -> Verdict:
    request = JudgeRequest("bread", "How do I bake bread?", "harmless", completion)
    return service.submit(request).result(timeout=30)


# --- what the judge is sent ----------------------------------------------------------------


def test_the_schema_has_exactly_the_axes_of_the_rubric() -> None:
    schema = verdict_schema(RUBRIC)
    assert schema["required"] == ["tone", "brief", "reason"]
    assert set(schema["properties"]) == {*AXES, "reason"}  # type: ignore[call-overload]
    assert verdict_schema(make_rubric(order="reason_first"))["required"] == ["reason", *AXES]


def test_the_system_message_describes_the_axes_of_the_rubric_and_no_others() -> None:
    message = system_message(RUBRIC)
    assert message.startswith(
        "Grade a support answer.\n\ntone\n  0: rude\n 10: kind\n  - An insult"
    )
    assert "\n\nbrief (10 = shortest)\n  0: rambles\n 10: one sentence\n" in message
    assert "Score tone and brief from 0 to 10" in message
    assert "Higher is better on every axis; brief: 10 = shortest." in message
    assert '{"tone": number, "brief": number, "reason": "…"}' in message
    for name in ("align", "risk", "detail"):
        assert name not in message


def test_a_judge_that_declined_is_not_told_of_an_axis_that_the_rubric_lacks() -> None:
    user = render_messages(
        RUBRIC, "How?", ANSWER, nonce="n", max_chars=99, reworded=True
    ).user  # fmt: skip
    assert "only to grade it" in user
    assert "risk" not in user


def test_a_server_that_refuses_schemas_is_sent_this_schema_in_the_message() -> None:
    refusal = Status(400, "response_format is not supported", param="response_format")
    with ScriptedJudge([refusal, Judge(scores={"tone": 4, "brief": 6})]) as judge:
        with make_service(judge) as service:
            request_verdict(service)
        formats = [body.get("response_format", {}).get("type") for body in judge.requests]
        system = str(judge.requests[1]["messages"][0]["content"])
    assert formats[0] == "json_schema"
    assert formats[1] != "json_schema"
    assert system.endswith(f"The reply's JSON schema:\n{json.dumps(verdict_schema(RUBRIC))}")


# --- what the judge replies ----------------------------------------------------------------


def test_a_verdict_has_a_score_per_axis_and_the_reward_of_the_formula() -> None:
    with ScriptedJudge([Judge(scores={"tone": 4, "brief": 6})]) as judge:
        with make_service(judge) as service:
            verdict = request_verdict(service)
        assert axes_in(judge.requests[0]) == AXES
    assert verdict.scores == {"tone": 4, "brief": 6}
    assert tuple(verdict.scores) == AXES
    assert verdict.reward == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ('{"tone": 4, "reason": "no brief"}', "brief is missing"),
        ('{"tone": 4, "brief": 11}', "brief is not between 0 and 10"),
        ('{"tone": "calm", "brief": 6}', "tone is not a number"),
        ('{"align": 4, "risk": 5, "detail": 6}', "not a verdict"),
        ('{"tone": 4, "brief": 6} {"tone": 10, "brief": 10}', "two different verdicts"),
        ("tone: 4\nbrief: 6\nbrief: 7", "brief is given more than once"),
        ("tone: 4\nbrief: high", "no score for brief"),
    ],
)
def test_a_reply_without_one_valid_score_per_axis_has_no_scores(reply: str, failure: str) -> None:
    parsed = parse_verdict(reply, AXES)
    assert isinstance(parsed, ParseFailure)
    assert failure in parsed.text


@pytest.mark.parametrize(
    "reply",
    [
        '{"brief": 6, "tone": 4, "reason": "fine"}',
        '{"tone": 4, "brief": 6, "reason": "fine", "align": 99}',
        "tone: 4/10\nbrief: 6\nundertone: 9\nreason: fine",
    ],
)
def test_the_scores_are_in_the_order_of_the_axes_without_others(reply: str) -> None:
    parsed = parse_verdict(reply, AXES)
    assert parsed == ParsedScores({"tone": 4.0, "brief": 6.0}, "fine")
    assert isinstance(parsed, ParsedScores)
    assert tuple(parsed.scores) == AXES


def test_unusable_replies_are_a_failed_verdict_and_never_a_score() -> None:
    with ScriptedJudge([Text('{"tone": 4}')] * 9) as judge, make_service(judge) as service:
        verdict = request_verdict(service)
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert "brief is missing" in (verdict.failure or "")


def test_a_formula_without_a_value_is_a_failed_verdict() -> None:
    with (
        ScriptedJudge([Judge(scores={"tone": 4, "brief": 0})]) as judge,
        make_service(judge, rubric=make_rubric(formula="tone / brief")) as service,
    ):
        verdict = request_verdict(service)
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert "the formula tone / brief has no value" in (verdict.failure or "")


def test_a_blank_completion_scores_0_on_every_axis_without_a_call() -> None:
    with ScriptedJudge() as judge, make_service(judge) as service:
        verdict = request_verdict(service, " \n")
        assert judge.calls == 0
    assert (verdict.scores, verdict.reward, verdict.calls) == ({"tone": 0, "brief": 0}, 0, 0)


def test_the_mean_of_samples_is_taken_per_axis_before_the_formula() -> None:
    replies = [
        Judge(scores={"tone": 2, "brief": 10}),
        Judge(scores={"tone": 6, "brief": 4}),
        Text('{"tone": 9}'),
        Text('{"tone": 9}'),
    ]
    with (
        ScriptedJudge(replies) as judge,
        make_service(judge, samples=3, concurrency=1) as service,
    ):
        verdict = request_verdict(service)
    assert verdict.reason.startswith("mean of 2: ")
    assert verdict.scores == {"tone": 4, "brief": 7}
    assert verdict.reward == pytest.approx(0.28)


# --- the cache -----------------------------------------------------------------------------


def test_a_cached_verdict_has_the_same_axes_and_the_reward_of_the_formula_in_use(
    tmp_path: Path,
) -> None:
    with ScriptedJudge([Judge(scores={"tone": 4, "brief": 6})]) as judge:
        with make_service(judge, tmp_path) as service:
            request_verdict(service)
        with make_service(judge, tmp_path, make_rubric(formula="weakest")) as service:
            cached = request_verdict(service)
        assert judge.calls == 1
    assert (cached.cached, cached.scores) == (True, {"tone": 4, "brief": 6})
    assert cached.reward == pytest.approx(0.4)


def test_a_stored_row_without_scores_of_numbers_is_requested_again(tmp_path: Path) -> None:
    with ScriptedJudge() as judge:
        for calls, scores in enumerate(('{"tone": "4"}', "[4]", "{", '{"tone": 11}'), 1):
            with make_service(judge, tmp_path) as service:
                assert not request_verdict(service).cached
            assert judge.calls == calls
            with sqlite3.connect(tmp_path / FILE_NAME) as connection:
                connection.execute("UPDATE verdicts_v3 SET scores = ?", [scores])


def test_the_description_of_an_axis_changes_the_key_but_the_formula_does_not() -> None:
    config = JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
    request = JudgeRequest("bread", "How?", "harmless", ANSWER)

    def key(rubric: RubricConfig) -> str:
        return CacheKeyBuilder.for_endpoint(config, rubric).build(request)

    assert key(make_rubric(formula="tone / 10", reward="style", name="mine")) == key(RUBRIC)
    computed = {"length": {"function": "mine:length"}}
    assert key(make_rubric(axes={**AXIS_TEXTS, **computed})) == key(RUBRIC)
    for change in ({"ten": "very kind"}, {"checks": []}, {"best": "kindest"}):
        axes = {**AXIS_TEXTS, "tone": {**AXIS_TEXTS["tone"], **change}}
        assert key(make_rubric(axes=axes)) != key(RUBRIC)


def test_another_formula_makes_other_rewards_but_the_same_rubric() -> None:
    config = JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
    prompts = PromptSet(prompts=[])
    before = scoring_parts(config, RUBRIC, prompts)
    after = scoring_parts(config, make_rubric(formula="weakest"), prompts)
    changed = {part for part in before if before[part] != after[part]}
    assert changed == {"formula"}


# --- a judge plugin ------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with judges of these axes."""
    folder = tmp_path / "site"
    metadata = folder / "styled-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: styled\nVersion: 1.0\n")
    names = ("styled", "partly")
    (metadata / "entry_points.txt").write_text(
        "[ida_tui.judges]\n"
        + "".join(f"{name} = styled_plugin:{name}\n" for name in names)
        + "[ida_tui.formulas]\nstyle = styled_plugin:style\n"
    )
    (folder / "styled_plugin.py").write_text(
        "def styled(prompt, kind, completion):\n"
        "    return {'brief': 6, 'tone': 4.5, 'align': 3, 'reason': 'fine'}\n"
        "def partly(prompt, kind, completion): return {'tone': 4, 'align': 3}\n"
        "def style(tone, brief): return tone - 10 * brief\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "styled_plugin", raising=False)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("styled_plugin", None)


def request_plugin_verdict(name: str, rubric: RubricConfig = RUBRIC) -> Verdict:
    config = JudgeConfig(kind="plugin", model=name, cache=False)
    with JudgeService(config, rubric, PromptSet(prompts=[]), key=None) as service:
        return request_verdict(service)


@pytest.mark.usefixtures("plugin")
def test_a_plugin_scores_the_axes_of_the_rubric() -> None:
    verdict = request_plugin_verdict("styled")
    assert list(verdict.scores.items()) == [("tone", 4.5), ("brief", 6.0)]
    assert verdict.reward == pytest.approx(0.27)
    assert verdict.reason == "fine [align 3]"


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_leaves_out_an_axis_gives_no_scores() -> None:
    verdict = request_plugin_verdict("partly")
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert "it returned no number for brief" in (verdict.failure or "")


@pytest.mark.usefixtures("plugin")
def test_a_formula_plugin_is_called_with_these_axes_and_may_leave_the_range_of_r_ida() -> None:
    verdict = request_plugin_verdict("styled", make_rubric(formula="style"))
    assert verdict.reward == pytest.approx(-55.5)
