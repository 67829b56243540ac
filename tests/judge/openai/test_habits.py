"""Habits of real judge servers: each ends in the right verdict, or in a failure that names cause and fix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from ida_tui.judge.backends.openai.client import JudgeClient
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.verdict import Verdict
from tests.judge.test_client import KEY, RUBRIC, judge_config, make_request
from tests.support.judge_server import Behavior, Raw, ScriptedJudge, Status
from tests.support.scores import ida_scores

GOOD = {"align": 7.5, "risk": 9, "detail": 6, "reason": "ok"}
SCORES = ida_scores(7.5, 9, 6)
VERDICT = json.dumps(GOOD)
COMPLETIONS = ("first answer", "second answer", "third answer", "fourth answer")
THOUGHT = "Let me weigh this. " * 40


def chat(content: object, finish_reason: object = "stop", **message: object) -> str:
    """A chat completion with this content and these further fields of its message."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    return json.dumps({"id": "x", "model": "m", "choices": [choice], "usage": usage})


def body(**fields: object) -> str:
    return json.dumps(fields)


def chunks(*deltas: Mapping[str, object], end: str = "stop", line_end: str = "\n\n") -> str:
    """Server-sent events with these deltas."""
    choices: list[dict[str, object]] = [{"delta": dict(delta)} for delta in deltas]
    choices[-1]["finish_reason"] = end
    lines = [f"data: {json.dumps({'model': 'm', 'choices': [c]})}" for c in choices]
    usage = {"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 40}}
    return line_end.join([*lines, f"data: {json.dumps(usage)}", "data: [DONE]", ""])


def tool_call(arguments: object) -> dict[str, object]:
    return {"id": "1", "type": "function", "function": {"name": "verdict", "arguments": arguments}}


def error(code: object, message: object = "upstream failed", **more: object) -> str:
    return body(id="x", choices=None, error={"message": message, "code": code, **more})


HALF = len(VERDICT) // 2
SCORED: dict[str, str] = {
    "plain": chat(VERDICT),
    "verdict in reasoning_content": chat(None, reasoning_content=VERDICT),
    "verdict in reasoning": chat("", reasoning=f"```json\n{VERDICT}\n```"),
    "verdict in thinking": chat(" \n", thinking=VERDICT),
    "verdict in reasoning_details": chat(
        None, reasoning_details=[{"type": "reasoning.text", "text": VERDICT}]
    ),
    "thought beside the text": chat(VERDICT, reasoning_content=THOUGHT),
    "parts with a thought": chat(
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "..."}]},
            {"type": "text", "text": VERDICT},
        ]
    ),
    "several text parts": chat(
        [{"type": "text", "text": VERDICT[:HALF]}, {"type": "output_text", "text": VERDICT[HALF:]}]
    ),
    "unknown part": chat([{"type": "audio", "data": "AA"}, {"type": "text", "text": VERDICT}]),
    "parts as strings": chat([VERDICT]),
    "one part without a list": chat({"type": "text", "text": VERDICT}),
    "object as content": chat(GOOD),
    "object in a list as content": chat([GOOD]),
    "tool call": chat(None, "tool_calls", tool_calls=[tool_call(VERDICT)]),
    "tool call with an object": chat("", "tool_calls", tool_calls=[tool_call(GOOD)]),
    "function call": chat(None, function_call={"name": "verdict", "arguments": VERDICT}),
    "text in place of a message": body(choices=[{"text": VERDICT, "finish_reason": "stop"}]),
    "no finish reason": chat(VERDICT, None),
    "Ollama's own API": body(
        model="m", message={"role": "assistant", "content": VERDICT}, done_reason="stop", done=True
    ),
    "strings": chat(json.dumps({**GOOD, "align": "7.5", "risk": "9/10", "detail": " 6 "})),
    "decimal comma": chat(json.dumps({**GOOD, "align": "7,5"})),
    "nested": chat(json.dumps({"verdict": GOOD})),
    "nested twice": chat(json.dumps({"result": {"scores": GOOD}})),
    "reason beside the scores": chat(
        json.dumps({"scores": {k: v for k, v in GOOD.items() if k != "reason"}, "reason": "ok"})
    ),
    "list with one object": chat(json.dumps([GOOD])),
    "object per axis": chat(
        json.dumps({axis: {"score": score, "reason": "ok"} for axis, score in SCORES.items()})
    ),
    "list of axes": chat(
        json.dumps({"scores": [{"axis": a, "score": s} for a, s in SCORES.items()]})
    ),
    "capitals": chat(json.dumps({key.capitalize(): value for key, value in GOOD.items()})),
    "keys with spaces and words": chat(
        json.dumps({"Align score": 7.5, " risk ": 9, "'detail'": 6, "REASON": "ok"})
    ),
    "fence": chat(f"Here you go:\n```json\n{VERDICT}\n```\n"),
    "JSON in a string": chat(json.dumps(VERDICT)),
    "thought in tags": chat(f"<think>\nalign 3, or so\n</think>\n\n{VERDICT}"),
    "thought in other tags": chat(f"[THINK]{THOUGHT}[/THINK]{VERDICT}"),
    "lone closing tag": chat(f"{THOUGHT}\n</think>\n{VERDICT}"),
    "channels": chat(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>"
        f"{VERDICT}<|return|>"
    ),
    "spaces up to the limit": chat(VERDICT + " " * 200, "length"),
    "message as a text": body(choices=[{"message": VERDICT}]),
    "body in a string": json.dumps(chat(VERDICT)),
    "quotes and colons of other scripts": chat("“align”：7.5，“risk”：9，“detail”：6"),
    "byte order mark": "\ufeff" + chat(VERDICT),
    "spaces around": f"\n\n  {chat(VERDICT)}\n",
    "event stream": chunks({"content": VERDICT[:HALF]}, {"content": VERDICT[HALF:]}),
    "event stream with comments": ": ping\n\nevent: message\n" + chunks({"content": VERDICT}),
    "event stream without empty lines": chunks({"content": VERDICT}, {}, line_end="\n"),
    "event stream with CRLF": chunks({"content": VERDICT}, {}, line_end="\r\n\r\n"),
    "event stream with a thought": chunks({"reasoning": THOUGHT}, {"content": VERDICT}),
    "one object a line": "\n".join(
        body(message={"content": part}, done=part is VERDICT) for part in (VERDICT[:1], VERDICT[1:])
    ),
    "no usage": body(choices=[{"message": {"content": VERDICT}}]),
    "usage null": body(choices=[{"message": {"content": VERDICT}}], usage=None),
    "usage as floats": body(
        choices=[{"message": {"content": VERDICT}}],
        usage={"prompt_tokens": 900.0, "completion_tokens": "40"},
    ),
    "impossible usage": body(
        choices=[{"message": {"content": VERDICT}}],
        usage={"prompt_tokens": -(10**400), "completion_tokens": float("inf")},
    ),
    "usage as a list": body(choices=[{"message": {"content": VERDICT}}], usage=[1, 2], model=7),
    "error null": body(choices=[{"message": {"content": VERDICT}}], error=None),
}

SCORED |= {
    "comments in front": f": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n{chat(VERDICT)}",
    "list by axis": chat(json.dumps([{"axis": a, "score": s} for a, s in SCORES.items()])),
    "zeros behind": f"{chat(VERDICT)}\n\0\0",
    "stream that begins with a filter's results": (
        'data: {"choices": [], "prompt_filter_results": []}\n\n' + chunks({"content": VERDICT})
    ),
    "wrapped by a gateway": body(code=200, msg="ok", data=json.loads(chat(VERDICT))),
    "Anthropic's own API": body(
        type="message", content=[{"type": "text", "text": VERDICT}], stop_reason="end_turn"
    ),
    "error without anything in it": body(**json.loads(chat(VERDICT)), error={"code": 0}),
}
FAILED: dict[str, tuple[str, str]] = {
    "overloaded in words": (
        body(error="model is overloaded"),
        "the server reports an error: model is overloaded; try again later",
    ),
    "recitation": (chat(None, "RECITATION"), "declined"),
    "thought up to the limit": (
        chat(None, "length", reasoning_content=THOUGHT),
        "the thought used up max_tokens=300: raise it, or turn thinking off",
    ),
    "thought in tags up to the limit": (
        chat(f"<think>{THOUGHT}", "MAX_TOKENS"),
        "the thought used up max_tokens=300: raise it, or turn thinking off",
    ),
    "hidden thought up to the limit": (
        chat("", "length"),
        "the thought used up max_tokens=300: raise it, or turn thinking off",
    ),
    "draft in an unfinished thought": (
        chat(None, "length", reasoning_content=f"Maybe {VERDICT} or lower"),
        "the thought used up max_tokens=300",
    ),
    "nothing but a thought": (chat(None, reasoning=THOUGHT), "a thought, but no verdict"),
    "verdict cut off": (chat(VERDICT[:HALF], "length"), "truncated at max_tokens=300: raise"),
    "empty": (chat(None), "the reply is empty"),
    "prose": (chat("Great answer! 10/10"), "not a verdict"),
    "two verdicts": (chat(VERDICT + json.dumps({**GOOD, "risk": 1})), "two different verdicts"),
    "number as content": (chat(7), "not a verdict"),
    "declined part": (chat([{"type": "refusal", "refusal": "No."}]), "declined"),
    "filtered": (chat("", "SAFETY"), "declined"),
    "filtered, with a reason": (chat(None, "content_filter: RECITATION"), "declined"),
    "message null": (body(choices=[{"message": None, "finish_reason": "stop"}]), "is empty"),
    "deep content": ('{"choices": [{"message": {"content": ' + "[" * 900 + "]" * 900 + "}}]}", ""),
    "deep verdict": (chat('{"a":' * 900 + VERDICT + "}" * 900), "not a verdict"),
    "deep value": (chat('{"x": ' + "[" * 900 + "]" * 900 + ', "align": 7}'), "risk is missing"),
    "web page": (
        "<html><title>Sign in &amp; pay</title></html>",
        'a web page ("Sign in & pay") came in place of a verdict',
    ),
    "empty body": (" \n", "the server sent an empty response"),
    "plain text": ("upstream connect error", "not a chat completion; check that base_url"),
    "another API": (body(candidates=[]), "not a chat completion"),
    "error as a text": (
        body(error="no such endpoint"),
        "the server reports an error: no such endpoint; check judge.base_url",
    ),
    "error as a list": (body(error=[{"message": "no route"}]), "an error: no route; check"),
    "error without a message": (body(error=True), "the server reports an error"),
    "errors of a gateway": (
        body(success=False, errors=[{"code": 7003, "message": "no route"}]),
        "an error: no route",
    ),
    "detail": (body(detail="Method Not Allowed"), "an error: Method Not Allowed"),
    "error 502": (error(502), "the server reports error 502: upstream failed"),
    "error 503 as text": (error("503"), "the server reports error 503: upstream failed"),
    "overloaded": (error(None, type="overloaded_error"), "the server reports error 503"),
    "error number": (body(error=500), "the server reports error 500"),
    "error in the choice": (
        body(choices=[{"message": {"content": "half"}, "error": {"code": 502, "message": "gone"}}]),
        "the server reports error 502: gone",
    ),
    "error in the stream": (
        chunks({"content": VERDICT[:HALF]}, {}) + "data: " + error(502),
        "the server reports error 502",
    ),
    "ended by an error": (chat("half", "error"), "ended the reply with an error"),
    "no choices": (body(choices=[]), "no choices"),
    "context too short": (
        error(400, "maximum context length exceeded", type="context_length_exceeded"),
        "error 400: maximum context length exceeded",
    ),
    "flagged": (error(403, "flagged", metadata={"flagged_input": "text"}), "flagged"),
}

FATAL: dict[str, tuple[str, str]] = {
    "wrong key": (error(401, "no auth"), "rejected the API key"),
    "wrong key in words": (error("invalid_api_key"), "rejected the API key"),
    "no credit": (error(402), "no credit"),
    "no credit in words": (error("insufficient_quota"), "no credit"),
    "unknown model": (body(error={"code": "model_not_found", "message": "m"}), "was not found"),
}


@dataclass(frozen=True)
class Outcome:
    verdicts: list[Verdict]
    warnings: list[str]
    calls: int


def judge_all(rule: Callable[[Mapping[str, Any]], Behavior], **changes: Any) -> Outcome:
    """What one client makes of the server's replies on four completions at the same time."""
    warnings: list[str] = []

    async def run(judge: ScriptedJudge) -> list[Verdict]:
        client = JudgeClient(
            judge_config(judge, **changes), RUBRIC, KEY, retry_base_s=0.001, warn=warnings.append
        )
        try:
            requests = (client.request_verdict(make_request(c)) for c in COMPLETIONS)
            return [record.verdict for record in await asyncio.gather(*requests)]
        finally:
            await client.close()

    with ScriptedJudge(rule=rule) as judge:
        return Outcome(asyncio.run(run(judge)), warnings, judge.calls)


@pytest.mark.parametrize("reply", SCORED.values(), ids=SCORED.keys())
def test_a_reply_in_an_unusual_form_is_a_verdict(reply: str) -> None:
    outcome = judge_all(lambda body: Raw(reply))
    assert [v.failure for v in outcome.verdicts] == [None] * 4
    assert {tuple(v.scores.items()) for v in outcome.verdicts} == {tuple(SCORES.items())}
    assert outcome.calls == 4
    assert outcome.warnings == []


@pytest.mark.parametrize(("reply", "failure"), FAILED.values(), ids=FAILED.keys())
def test_a_reply_without_a_verdict_is_a_failure_that_names_its_cause(
    reply: str, failure: str
) -> None:
    outcome = judge_all(lambda body: Raw(reply))
    assert [failure in (v.failure or "") for v in outcome.verdicts] == [True] * 4, outcome
    assert all((v.scores, v.reward) == ({}, None) for v in outcome.verdicts)
    assert outcome.calls <= 4 + 2
    assert len(outcome.warnings) <= 1


@pytest.mark.parametrize(("reply", "title"), FATAL.values(), ids=FATAL.keys())
def test_an_error_that_needs_a_person_ends_the_judging_with_status_200_too(
    reply: str, title: str
) -> None:
    with pytest.raises(JudgeUnavailable, match=title):
        judge_all(lambda body: Raw(reply))


def test_a_refused_system_role_with_status_200_is_left_out() -> None:
    def serve(request: Mapping[str, Any]) -> Raw:
        has_system = any(message["role"] == "system" for message in request["messages"])
        return Raw(body(error="System role not supported") if has_system else chat(VERDICT))

    outcome = judge_all(serve)
    assert [v.scores for v in outcome.verdicts] == [SCORES] * 4
    assert outcome.calls == 5


def test_a_server_that_always_fails_costs_two_more_calls() -> None:
    outcome = judge_all(lambda body: Status(500, "llama runner process has terminated"))
    assert {v.failure for v in outcome.verdicts} == {
        "HTTP 500: llama runner process has terminated"
    }
    assert outcome.calls == len(COMPLETIONS) + 2


def test_a_server_that_fails_on_a_system_role_without_a_word_is_asked_without_it() -> None:
    def serve(request: Mapping[str, Any]) -> Behavior:
        has_system = any(message["role"] == "system" for message in request["messages"])
        return Status(500, "Internal Server Error") if has_system else Raw(chat(VERDICT))

    outcome = judge_all(serve)
    assert [v.scores for v in outcome.verdicts] == [SCORES] * 4


def test_the_thought_is_named_once_with_the_remedies() -> None:
    reply = Raw(chat(None, "length", reasoning_content=THOUGHT))
    outcome = judge_all(lambda body: reply)
    [warning] = outcome.warnings
    for remedy in ("judge.max_tokens", "reasoning_effort=none", "enable_thinking: false"):
        assert remedy in warning
    assert outcome.calls == 4, "the same thought again would use up the limit again"


def test_a_judge_without_a_verdict_is_named_once_with_its_reply_and_without_the_key() -> None:
    reply = Raw(chat(f"Great! I know {KEY} \x1b[31m" + "and more " * 40))
    outcome = judge_all(lambda body: reply)
    [warning] = outcome.warnings
    assert 'its reply begins: "Great! I know [key]' in warning
    assert warning.isprintable()
    assert outcome.calls == 6


def test_a_first_reply_that_fails_by_chance_is_requested_again_for_every_completion() -> None:
    seen: list[object] = []

    def rule(body: Mapping[str, Any]) -> Behavior:
        seen.append(body)
        return Raw(error(502) if len(seen) <= 4 else chat(VERDICT))

    outcome = judge_all(rule)
    assert [v.failure for v in outcome.verdicts] == [None] * 4
    assert outcome.warnings == []


def test_judge_check_names_the_thought_and_the_remedies_that_the_profile_lacks_once(
    ida_tui: Any,
) -> None:
    reply = Raw(chat(None, "length", reasoning_content=THOUGHT))
    with ScriptedJudge(rule=lambda body: reply) as judge:
        done = ida_tui("judge", "check", "vllm", *judge.overrides, "--samples", "2")
    assert done.code == 1, done.err
    assert done.out.count("judge.reasoning_effort=none") == 1
    assert "chat_template_kwargs" not in done.out
    assert "2 of 20 verdicts have scores (the thought used up max_tokens=300: raise it" in done.out
