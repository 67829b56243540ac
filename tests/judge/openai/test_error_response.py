"""Error responses in the words of real servers and gateways: what they mean, and what to do."""

from __future__ import annotations

import json

import pytest

from ida_tui.judge.backends.openai.error_response import classify_response
from ida_tui.judge.errors import unavailable_error

SENT = ("temperature", "max_tokens", "response_format")
TOO_LONG = [
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000",
    ),
    (400, "'max_tokens' is too large: 300. This model's maximum context length is 512 tokens"),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    (400, "Input is too long for requested model."),
    (400, "The input token count (40000) exceeds the maximum number of tokens allowed (32768)."),
    (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    (400, "max_tokens + prompt tokens exceed the model limit of 4096"),
    (400, "Range of input length should be [1, 30720]"),
    (413, "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 9000"),
    (500, "input is too large to process. increase the physical batch size"),
]
FILTERED = [
    (400, {"message": "Content Exists Risk"}),
    (400, {"message": "Input data may contain inappropriate content."}),
    (400, {"message": "系统检测到输入或生成内容可能包含不安全或敏感内容", "code": "1301"}),
    (400, {"message": "Invalid prompt: your prompt was flagged as violating our usage policy."}),
    (403, {"message": "m requires moderation", "metadata": {"flagged_input": "x"}}),
]
FATAL = [
    (400, "Your credit balance is too low to access the API.", "has no credit left"),
    (403, "Your newly created team doesn't have any credits yet.", "has no credit left"),
    (400, "The requested model 'm' is not supported by any provider.", "was not found"),
    (400, "No models loaded. Please load a model in the developer page.", "was not found"),
    (400, "Retry with the ID or ARN of an inference profile.", "was not found"),
    (403, "Missing Authentication Token", "was not found"),
    (405, "Method Not Allowed", "was not found"),
    (403, "not authorized", "a request without an API key has no access"),
]
BLOCKED = [
    (403, "<html><head><title>Just a moment...</title></head></html>"),
    (403, "error code: 1010"),
    (511, "<html><title>Network Authentication Required</title></html>"),
]
REFUSED = [
    (
        "max_tokens is too large: 300. This model supports at most 128 completion tokens.",
        "max_tokens",
    ),
    ("temperature: Input should be greater than 0", "temperature"),
]


@pytest.mark.parametrize(("status", "message"), TOO_LONG)
def test_a_request_that_is_too_long_takes_no_feature_away_and_names_the_remedy(
    status: int, message: str
) -> None:
    fault = classify_response(status, json.dumps({"error": {"message": message}}), {}, SENT, None)
    assert fault.kind == "rejected"
    assert "lower judge.max_judged_chars" in fault.text


@pytest.mark.parametrize(("status", "error"), FILTERED)
def test_a_content_filter_declines_one_text_and_says_nothing_about_the_server(
    status: int, error: dict[str, object]
) -> None:
    assert (
        classify_response(status, json.dumps({"error": error}), {}, SENT, None).kind == "declined"
    )


@pytest.mark.parametrize(("status", "message", "title"), FATAL)
def test_an_error_that_needs_a_person_is_named_by_its_words(
    status: int, message: str, title: str
) -> None:
    fault = classify_response(status, json.dumps({"error": {"message": message}}), {}, SENT, None)
    assert fault.kind == "fatal"
    assert title in str(unavailable_error(fault, model="m", host="h", key_name=None))


@pytest.mark.parametrize(("status", "page"), BLOCKED)
def test_a_page_on_the_way_to_the_judge_is_not_blamed_on_the_key(status: int, page: str) -> None:
    error = unavailable_error(
        classify_response(status, page, {}, SENT, None), model="m", host="h", key_name="KEY"
    )
    assert "turned away on its way" in str(error)
    assert "key" not in f"{error} {error.hint.split('or set judge=offline')[0]}"


@pytest.mark.parametrize(("message", "feature"), REFUSED)
def test_a_value_that_is_out_of_range_is_refused_and_not_too_long(
    message: str, feature: str
) -> None:
    fault = classify_response(400, json.dumps({"error": {"message": message}}), {}, SENT, None)
    assert (fault.kind, fault.features) == ("refused", frozenset((feature,)))
