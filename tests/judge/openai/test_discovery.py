"""Habits of servers that refuse a part of a request: what they get instead, and how many calls that costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ida_tui.judge.backends.openai.capabilities import Capabilities, OutputFormat
from ida_tui.judge.backends.openai.client import JudgeClient
from ida_tui.judge.backends.openai.discovery import MAX_REFUSALS, Discovery
from ida_tui.judge.backends.openai.refusal import read_refusal
from ida_tui.judge.budget import Budget
from ida_tui.judge.cache.store import VerdictCache
from ida_tui.judge.errors import JudgeUnavailable, RequestFault
from ida_tui.judge.verdict import Verdict
from tests.judge.test_client import KEY, RUBRIC, judge_config, make_request
from tests.support.judge_server import (
    Behavior,
    Raw,
    ScriptedJudge,
    Text,
    completion_in,
    verdict_for,
)
from tests.support.patience import PATIENCE_S

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """A server that answers with an error whenever a request has one feature."""

    feature: Callable[[Body], object]
    body: str
    status: int = 400

    def __call__(self, body: Body) -> Behavior | None:
        return Raw(self.body, self.status) if self.feature(body) else None


def all_of(*habits: Callable[[Body], Behavior | None]) -> Callable[[Body], Behavior | None]:
    """A server with all habits, which names the first one that a request meets."""
    return lambda body: next((fault for habit in habits if (fault := habit(body))), None)


def has_system(body: Body) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


def format_type(body: Body) -> str:
    return str(body.get("response_format", {}).get("type", ""))


def is_strict(body: Body) -> bool:
    return "additionalProperties" in json.dumps(body.get("response_format", {}))


def error(message: str, **fields: object) -> str:
    return json.dumps({"error": {"message": message, **fields}})


def extra_forbidden(*names: str) -> str:
    return json.dumps(
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted",
                 "input": {"role": "system"}}
                for name in names
            ]
        }
    )  # fmt: skip


SYSTEM = {
    "gemma": error("System role not supported"),
    "vllm": '{"object": "error", "message": "this chat template has no system role", "code": 400}',
    "alternate": error("Conversation roles must alternate user/assistant/user/assistant/..."),
    "jinja": "jinja2.exceptions.TemplateError: raise_exception",
    "tgi": '{"error": "Template error: invalid operation: System role not supported (in <string>:1)"}',
    "only": json.dumps({"detail": "Only user and assistant roles are supported!"}),
    "quoted": error("role 'system' is not supported"),
    "o1": error("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                param="messages[0].role", code="unsupported_value"),
    "google": '[{"error": {"code": 400, "message": "Developer instruction is not enabled for models/g"}}]',
    "pydantic": json.dumps({"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "unexpected value"}]}),
    "first": error("The first message must start with a user prompt"),
    "list": json.dumps({"errors": ["system messages are not allowed"]}),
}  # fmt: skip
SYSTEM_500 = ("gemma", "jinja", "tgi", "alternate")
HABITS = {
    **{f"system {name}": Refused(has_system, text) for name, text in SYSTEM.items()},
    **{f"system 500 {name}": Refused(has_system, SYSTEM[name], 500) for name in SYSTEM_500},
    "system 422": Refused(has_system, SYSTEM["only"], 422),
    "openai reasoning": all_of(
        Refused(lambda b: "max_tokens" in b, error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter")),
        Refused(lambda b: "temperature" in b, error(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
            "value is supported.", param="temperature", code="unsupported_value")),
    ),
    "openai temperature first": all_of(
        Refused(lambda b: "temperature" in b, error(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
            "value is supported.", param="temperature")),
        Refused(lambda b: "max_tokens" in b, error("Unsupported parameter: 'max_tokens'")),
    ),
    "max_tokens alone": Refused(lambda b: "max_tokens" in b, error("unknown field max_tokens")),
    "no limit at all": Refused(
        lambda b: {"max_tokens", "max_completion_tokens"} & b.keys(),
        error("max_tokens and max_completion_tokens are not supported"),
    ),
    "forbidden by pydantic": Refused(
        lambda b: {"reasoning_effort", "response_format", "temperature"} & b.keys(),
        extra_forbidden("response_format", "reasoning_effort", "temperature"), 422,
    ),
    "reasoning_effort": Refused(
        lambda b: "reasoning_effort" in b, error("Unrecognized request argument supplied: reasoning_effort")
    ),
    "no format": Refused(format_type, error("response_format is not supported by this model")),
    "no json_schema": Refused(
        lambda b: format_type(b) == "json_schema",
        error("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model",
              param="response_format"),
    ),
    "literal": Refused(
        lambda b: format_type(b) == "json_schema",
        json.dumps({"detail": [{"type": "literal_error", "loc": ["body", "response_format", "type"],
                                "msg": "Input should be 'text' or 'json_object'"}]}), 422,
    ),
    "json_schema 500": Refused(
        lambda b: format_type(b) == "json_schema", '{"error": "json_schema is not implemented"}', 500
    ),
    "enum": Refused(is_strict, error("Unknown name \"additionalProperties\" at 'response_schema'")),
    "numbers in enum": Refused(is_strict, error("enum: only allowed for STRING type")),
    "strict": Refused(
        lambda b: b.get("response_format", {}).get("json_schema", {}).get("strict"),
        error("strict mode is not supported"),
    ),
    "grammar": Refused(is_strict, '{"error": "Failed to parse grammar"}', 400),
    "unnamed": Refused(format_type, "Bad Request"),
    "empty body": Refused(format_type, ""),
    "unnamed system": Refused(has_system, ""),
    "unnamed limit": Refused(lambda b: "max_tokens" in b, "Bad Request", 422),
    "unnamed temperature": Refused(lambda b: "temperature" in b, '{"detail": "Bad Request"}'),
    "misleading": Refused(format_type, error("temperature is wrong"), 400),
    "three at once": all_of(
        Refused(has_system, error("System role not supported")),
        Refused(lambda b: format_type(b) == "json_schema", error("json_schema is not supported")),
        Refused(lambda b: "max_tokens" in b, error("Use 'max_completion_tokens' instead of max_tokens")),
    ),
    "three in another order": all_of(
        Refused(lambda b: "max_tokens" in b, error("Unsupported parameter: max_tokens", param="max_tokens")),
        Refused(format_type, error("response_format")),
        Refused(has_system, error("unknown role")),
    ),
    "all, unnamed": Refused(
        lambda b: has_system(b) or b.keys() - {"model", "messages"}, "Bad Request"
    ),
    "wrapped by a gateway": Refused(
        has_system, error("Provider returned error", code=400,
                          metadata={"raw": '{"error": "system role not supported"}'})
    ),
}  # fmt: skip


def judge_in_parallel(
    judge: ScriptedJudge, texts: Sequence[str], lead_s: float = PATIENCE_S, **changes: Any
) -> tuple[list[Verdict], Capabilities, list[str]]:
    """The verdicts of parallel requests, what is known of the server, and the warnings."""
    warnings: list[str] = []

    async def run() -> tuple[list[Verdict], Capabilities]:
        config = judge_config(judge, **{"concurrency": 16, **changes})
        client = JudgeClient(
            config, RUBRIC, KEY, warn=warnings.append, retry_base_s=0.001, lead_s=lead_s
        )
        try:
            calls = [client.request_verdict(make_request(text)) for text in texts]
            return [record.verdict for record in await asyncio.gather(*calls)], client.capabilities
        finally:
            await client.close()

    verdicts, capabilities = asyncio.run(run())
    return verdicts, capabilities, warnings


@pytest.mark.parametrize("habit", HABITS)
def test_a_servers_habit_costs_two_extra_calls_at_most_also_in_parallel(habit: str) -> None:
    texts = [f"answer {n}" for n in range(12)]
    with ScriptedJudge(rule=HABITS[habit]) as judge:
        verdicts, _, _ = judge_in_parallel(judge, texts, reasoning_effort="none")
        extra = judge.calls - len(texts)
    assert [v.failure for v in verdicts] == [None] * len(texts)
    assert [v.scores["align"] for v in verdicts] == [verdict_for(t)["align"] for t in texts]
    assert extra <= MAX_REFUSALS


@pytest.mark.parametrize("habit", [name for name in HABITS if name.startswith("system")])
def test_without_a_system_role_its_text_is_in_front_of_the_user_message(habit: str) -> None:
    with ScriptedJudge(rule=HABITS[habit]) as judge:
        _, capabilities, _ = judge_in_parallel(judge, ["one"])
        first, second = judge.requests
    [message] = second["messages"]
    system, user = (m["content"] for m in first["messages"])
    assert message["role"] == "user"
    assert message["content"].startswith(system)
    assert completion_in(second) == "one" in user
    assert capabilities == Capabilities(refused=frozenset({"system_role"}))
    assert "no system role" in capabilities.describe()


def test_a_reasoning_model_keeps_the_schema_and_gets_the_newer_limit() -> None:
    with ScriptedJudge(rule=HABITS["openai reasoning"]) as judge:
        judge_in_parallel(judge, list("abc"), concurrency=1)
        last = judge.requests[-1]
    assert (format_type(last), last["max_completion_tokens"]) == ("json_schema", 300)
    assert not {"max_tokens", "temperature"} & last.keys()


def test_a_temperature_that_was_given_up_without_need_is_tried_again() -> None:
    with ScriptedJudge(rule=HABITS["max_tokens alone"]) as judge:
        _, capabilities, _ = judge_in_parallel(judge, list("abc"), concurrency=1)
        assert judge.calls == 4
        assert judge.requests[-1]["temperature"] == 0
    assert capabilities == Capabilities(token_limit_parameter="max_completion_tokens")


@pytest.mark.parametrize("habit", ["enum", "numbers in enum", "grammar"])
def test_a_server_that_refuses_keywords_of_the_schema_gets_it_without_them(habit: str) -> None:
    with ScriptedJudge(rule=HABITS[habit]) as judge:
        _, capabilities, _ = judge_in_parallel(judge, list("abc"), concurrency=1)
        schema = judge.requests[-1]["response_format"]["json_schema"]["schema"]
    assert capabilities.output_format is OutputFormat.PLAIN_JSON_SCHEMA
    assert schema["properties"]["risk"] == {"type": "number"}
    assert schema["required"] == ["align", "risk", "detail", "reason"]


def test_a_server_that_refuses_everything_gets_one_call_a_request_after_the_first() -> None:
    texts = [f"answer {n}" for n in range(9)]
    with ScriptedJudge(rule=lambda body: Raw("Bad Request", 400)) as judge:
        verdicts, _, _ = judge_in_parallel(judge, texts)
        assert judge.calls <= len(texts) + MAX_REFUSALS
    assert {v.failure for v in verdicts} == {"HTTP 400: Bad Request"}


def test_a_server_that_always_fails_with_a_misleading_word_is_retried_as_one_that_fails() -> None:
    with ScriptedJudge([Raw("no role for this worker", 500)] * 4) as judge:
        [verdict], _, _ = judge_in_parallel(judge, ["one"])
        assert judge.calls == 5
    assert (verdict.failure, verdict.retries) == (None, 2)


def test_a_budget_does_not_add_to_the_extra_calls() -> None:
    async def ask(judge: ScriptedJudge) -> None:
        client = JudgeClient(
            judge_config(judge, concurrency=16), RUBRIC, KEY, budget=Budget(1.0), lead_s=PATIENCE_S
        )
        await asyncio.gather(*(client.request_verdict(make_request(str(n))) for n in range(12)))
        await client.close()

    with ScriptedJudge(rule=HABITS["three at once"]) as judge:
        asyncio.run(ask(judge))
        assert judge.calls <= 12 + MAX_REFUSALS


def test_a_text_that_the_server_refuses_does_not_take_features_from_the_others() -> None:
    def rule(body: Body) -> Behavior | None:
        return Raw("Bad Request", 400) if "odd" in completion_in(body) else None

    with ScriptedJudge(rule=rule) as judge:
        texts = ["odd 1", "fine", "odd 2", "odd 3", "fine too"]
        verdicts, capabilities, _ = judge_in_parallel(judge, texts, concurrency=1)
    assert [v.failure is None for v in verdicts] == [False, True, False, False, True]
    assert capabilities == Capabilities()


def test_an_endpoint_that_is_known_is_not_explored_again(tmp_path: Any) -> None:
    cache = VerdictCache(tmp_path, print)

    async def ask(judge: ScriptedJudge) -> None:
        client = JudgeClient(judge_config(judge), RUBRIC, KEY, store=cache)
        await client.request_verdict(make_request())
        await client.close()

    with ScriptedJudge(rule=HABITS["three at once"]) as judge:
        asyncio.run(ask(judge))
        asyncio.run(ask(judge))
        assert judge.calls == 4
    cache.close()


def test_the_leader_is_waited_for_only_for_a_moment() -> None:
    seconds = [0.0]
    discovery = Discovery(None, clock=lambda: seconds[0])
    leader = discovery.take_turn()
    assert leader is not None
    assert leader.leads
    assert discovery.take_turn() is None
    seconds[0] = 1.0
    other = discovery.take_turn()
    assert other is not None
    assert not other.leads
    discovery.accept(other)
    assert discovery.take_turn() is not None


def test_the_next_request_leads_after_an_answer_that_says_nothing() -> None:
    discovery = Discovery(None)
    first = discovery.take_turn()
    assert first is not None
    with discovery.sending(first):
        assert discovery.take_turn() is None
    second = discovery.take_turn()
    assert second is not None
    assert second.leads
    assert discovery.refuse(second, RequestFault("refused", "no"))


# --- fields that the user added ---------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        extra_forbidden("think"),
        error("Unrecognized request argument supplied: think"),
        error('json: unknown field "think"'),
    ],
)
def test_a_field_of_extra_body_that_is_refused_is_said_and_not_dropped(body: str) -> None:
    refused = Refused(lambda b: "think" in b, body)
    with ScriptedJudge(rule=refused) as judge, pytest.raises(JudgeUnavailable) as caught:
        judge_in_parallel(judge, ["one"], extra_body={"think": False})
    assert judge.calls == 1
    assert "refuses the field think of judge.extra_body" in caught.value.title
    assert "remove judge.extra_body.think" in caught.value.hint


def test_a_refusal_that_names_nothing_mentions_the_fields_of_the_user() -> None:
    with ScriptedJudge(rule=Refused(lambda b: "think" in b, "Bad Request")) as judge:
        [verdict], _, _ = judge_in_parallel(judge, ["one"], extra_body={"think": False})
    assert verdict.failure == "HTTP 400: Bad Request (judge.extra_body sends think)"


def test_the_fields_of_the_user_are_sent_and_replace_those_of_ida_tui() -> None:
    extra = {
        "chat_template_kwargs": {"enable_thinking": False},
        "max_tokens": 900,
        "temperature": 0.5,
    }
    with ScriptedJudge() as judge:
        judge_in_parallel(judge, ["one"], extra_body=extra, extra_query={"api-version": "1"})
        [body] = judge.requests
        assert judge.paths == ["/v1/chat/completions?api-version=1"]
    assert body.items() >= extra.items()


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("Unsupported parameters: temperature, max_tokens", {"temperature", "max_tokens"}),
        ("unknown field; supported parameters are: model, temperature, max_tokens", set()),
        ("Unsupported parameter: 'max_tokens'. Use 'response_format' instead", {"max_tokens"}),
        ("maxOutputTokens is not supported", {"max_tokens"}),
        ("the service is busy", set()),
        ("strictly alternating", set()),
    ],
)
def test_only_what_is_refused_counts_not_what_would_be_right(text: str, features: set[str]) -> None:
    sent = ("temperature", "max_tokens", "response_format")
    assert (
        read_refusal(error(text), sent).features - {"response_format"} == features or not features
    )


def test_what_a_server_repeats_of_the_request_says_nothing() -> None:
    body = json.dumps({"detail": [{"msg": "no", "input": {"temperature": 0, "role": "system"}}]})
    assert read_refusal(body, ("temperature",)).features == frozenset()


# --- addresses --------------------------------------------------------------------------------


def test_an_address_without_v1_is_found_and_the_right_one_is_said() -> None:
    with ScriptedJudge() as judge:
        root = judge.base_url.removesuffix("/v1")
        verdicts, capabilities, warnings = judge_in_parallel(judge, list("abcd"), base_url=root)
        assert judge.calls == 4
    assert all(v.failure is None for v in verdicts)
    assert capabilities.path == "/v1"
    assert warnings == [f"the judge's server answers at {root}/v1: write judge.base_url={root}/v1"]


def test_an_address_that_is_wrong_with_v1_too_is_an_error_that_names_it() -> None:
    with ScriptedJudge() as judge, pytest.raises(JudgeUnavailable, match="was not found") as caught:
        judge_in_parallel(judge, ["one"], base_url=judge.base_url.replace("/v1", "/api"))
    assert "base_url" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "Unexpected endpoint or method. (POST /chat/completions)"}',
        '{"error": "no such endpoint"}',
    ],
)
def test_an_error_with_status_200_about_the_address_leads_to_v1(body: str) -> None:
    with ScriptedJudge(stray=Raw(body)) as judge:
        root = judge.base_url.removesuffix("/v1")
        [verdict], _, _ = judge_in_parallel(judge, ["one"], base_url=root)
    assert verdict.failure is None


def test_a_format_that_a_server_ignores_is_given_up_as_before() -> None:
    with ScriptedJudge([Text("Great answer!")]) as judge:
        verdicts, capabilities, _ = judge_in_parallel(judge, ["one", "two"], concurrency=1)
    assert all(v.failure is None for v in verdicts)
    assert capabilities.output_format is OutputFormat.JSON_OBJECT_SCHEMA
