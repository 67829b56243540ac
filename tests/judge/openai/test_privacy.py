"""Secrets of a judge: they are in the headers to the host that was named for them, and nowhere else.

The server of these tests is also the proxy on the way to a host that does not exist.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from ida_tui.config.schema import JudgeConfig
from ida_tui.judge.backends.openai.transport import Transport
from ida_tui.util.secrets import SecretFilter
from tests.support.judge_server import (
    Behavior,
    Judge,
    Raw,
    ScriptedJudge,
    Status,
    completion_in,
    verdict_for,
)

HOST = "judge.example"
KEY = "gw-7Hq2/xT0+plan_9Zr4Lm8"
HEADER_SECRET = "tenant.Q4w8E2r6T0y3"
PROXY_SECRET = "proxy-pass-5150-zz"
ORGANIZATION = "org-31415926535"
PARTS = (KEY[:10], KEY[-9:], HEADER_SECRET[:12], HEADER_SECRET[-8:])
SMALL_RUN = (
    "training.max_steps=2", "training.num_generations=4", "training.per_device_train_batch_size=8",
    "training.max_completion_length=12", "training.temperature=2", "evaluation.enabled=false",
    "training.gradient_accumulation_steps=1", "judge.max_unscored=1", "judge.max_retries=1",
    "judge.anchor_every=0",
)  # fmt: skip


def echoes() -> list[Behavior]:
    """Replies that repeat the secrets in every place that is read."""
    said = f"key {KEY}, {quote(KEY, safe='')}, {base64.b64encode(KEY.encode()).decode()}, {HEADER_SECRET}"
    parts = f"it starts with {PARTS[0]} and ends with {PARTS[1]}, {PARTS[2]}… …{PARTS[3]}"
    location = f"https://elsewhere.example/v1?key={quote(KEY)}"
    return [
        Status(500, said),
        Status(429, parts, code=KEY, retry_after="0"),
        Raw(json.dumps({"detail": [{"loc": ["body", KEY], "msg": said}]}), 422),
        Raw("", 307, {"Location": location, "X-Echo": KEY}),
        Raw("", 302, {"Location": f"http://{HEADER_SECRET}.example/"}),
        Raw(f"<html><title>{said}</title>{parts}</html>"),
        Raw(json.dumps({"error": {"message": parts, "code": KEY}})),
        Judge(model=f"model of {KEY} for {HEADER_SECRET}"),
    ]


class Echoing:
    """A server rule: every kind of echo in turn, and verdicts whose reasons repeat secrets."""

    def __init__(self) -> None:
        self._turns = itertools.count()
        self._echoes = echoes()

    def __call__(self, body: Mapping[str, Any]) -> Behavior | None:
        number = next(self._turns)
        if number and number % 2 and number // 2 < len(self._echoes):
            return self._echoes[number // 2]
        verdict = {**verdict_for(completion_in(body)), "reason": f"the key is {KEY}, {PARTS[0]}"}
        message = {"role": "assistant", "content": json.dumps(verdict)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return Raw(json.dumps({"model": "m", "system_fingerprint": KEY, "choices": choices}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    with ScriptedJudge(rule=Echoing(), models=Status(404, f"no list for {KEY}")) as judge:
        port = urlsplit(judge.base_url).port
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://me:{PROXY_SECRET}@127.0.0.1:{port}")
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{HOST}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("GATEWAY_TENANT", HEADER_SECRET)
        monkeypatch.setenv("OPENAI_ORG_ID", ORGANIZATION)
        monkeypatch.setenv("OPENAI_PROJECT_ID", ORGANIZATION)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Custom: {ORGANIZATION}")
        monkeypatch.setenv("OPENAI_LOG", "debug")
        yield judge


def assert_clean(place: str, text: str) -> None:
    for secret in (KEY, HEADER_SECRET, PROXY_SECRET, ORGANIZATION, *PARTS):
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert form not in text, f"{place} contains {form}"


def test_a_secret_is_nowhere_but_in_the_header_to_the_named_host(
    ida_tui_here: Any, server: ScriptedJudge, tmp_path: Path
) -> None:
    done = ida_tui_here(
        "--run", "quickstart", "judge=gpt-4o-mini", *SMALL_RUN,
        "judge.extra_headers.X-Tenant-Token=$GATEWAY_TENANT",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert_clean("stdout", done.out)
    assert_clean("stderr", done.err)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"judge.sqlite3", "events.jsonl", "completions.jsonl", "config.yaml"} <= {
        file.name for file in files
    }
    for file in files:
        assert_clean(str(file), file.read_bytes().decode("utf-8", "replace"))

    assert server.calls >= 2 * len(echoes())
    assert {headers["Host"] for headers in server.headers} == {HOST}
    for headers in server.headers:
        values = {name.lower(): value for name, value in headers.items()}
        assert values.pop("authorization") == f"Bearer {KEY}"
        assert values.pop("x-tenant-token") == HEADER_SECRET
        assert values.pop("proxy-authorization").startswith("Basic ")  # for the proxy alone
        assert_clean("a header", "\n".join(values.values()))
    for path, body in zip(server.paths, server.requests, strict=True):
        assert_clean("an address", path)
        assert_clean("a body", json.dumps(body))


def test_a_secret_that_an_error_repeats_is_not_printed(
    ida_tui_here: Any, server: ScriptedJudge
) -> None:
    server._rule = lambda body: Status(401, f"wrong key {KEY} ({PARTS[0]}…), {HEADER_SECRET}")
    done = ida_tui_here(
        "judge", "check", "gpt-4o-mini", "--samples", "1",
        "judge.extra_headers.X-Tenant-Token=$GATEWAY_TENANT",
    )  # fmt: skip
    assert done.code == 3
    assert "rejected the API key" in done.err
    assert "server message: HTTP 401: wrong key [key]" in done.err
    assert_clean("output", done.out + done.err)


def test_a_check_shows_the_address_of_the_environment_and_the_proxy(
    ida_tui_here: Any, server: ScriptedJudge
) -> None:
    checked = ida_tui_here("--check", "quickstart", "judge=gpt-4o-mini")
    assert f"gpt-4o-mini at http://{HOST}/v1 (OPENAI_BASE_URL)" in checked.out
    port = urlsplit(server.base_url).port
    assert re.search(rf"127\.0\.0\.1:{port} \(https?_proxy\)", checked.out)
    judged = ida_tui_here("judge", "check", "gpt-4o-mini", "--samples", "1")
    assert f"(gpt-4o-mini at {HOST} (OPENAI_BASE_URL))" in judged.out
    assert_clean("output", checked.out + judged.out + judged.err)


def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://me:{PROXY_SECRET}@127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    done = ida_tui_here(
        "judge", "check", "gpt-4o-mini", f"judge.base_url=http://{HOST}/v1", "--samples", "1",
        "judge.max_retries=0",
    )  # fmt: skip
    assert done.code == 1
    assert f"could not connect to {HOST} through the proxy 127.0.0.1:1 (ALL_PROXY)" in done.out
    assert_clean("output", done.out + done.err)


def test_a_proxy_that_wants_a_login_is_one_error(ida_tui_here: Any, server: ScriptedJudge) -> None:
    server._rule = lambda body: Raw("<title>Proxy login</title>", 407)
    done = ida_tui_here("judge", "check", "gpt-4o-mini", "--samples", "1")
    assert done.code == 3
    assert f"the proxy on the way to {HOST} requires a login" in done.err


def test_a_socks_proxy_without_its_support_is_one_error_that_names_the_variable(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    done = ida_tui_here("judge", "check", "gpt-4o-mini", "--samples", "1")
    assert done.code == 3
    assert "ALL_PROXY names a SOCKS proxy" in done.err
    assert "uv pip install socksio" in done.err
    checked = ida_tui_here("--check", "quickstart", "judge=gpt-4o-mini")
    assert "ALL_PROXY names a SOCKS proxy" in checked.out


def test_a_server_that_knows_the_key_of_another_judge_of_a_panel_shows_neither() -> None:
    config = JudgeConfig(kind="openai", model="m", base_url="https://judge.example/v1")
    transport = Transport(config, KEY, ["second.Key-5tR9+uu7Kx", None])
    assert transport._secrets.remove(f"{KEY}; second.Key-5tR9+uu7Kx") == "[key]; [key]"


def test_the_organization_of_the_environment_is_sent_to_openai_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", ORGANIZATION)
    for base_url, sent in ((None, True), ("https://api.openai.com.example/v1", False)):
        config = JudgeConfig(kind="openai", model="m", base_url=base_url)
        headers = Transport(config, KEY)._client._client.own_headers
        assert (headers.get("OpenAI-Organization") == ORGANIZATION) is sent


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "capitals": str.upper,
    "address": lambda key: quote(key, safe="").lower(),
    "address, every character": lambda key: "".join(f"%{ord(c):02X}" for c in key),
    "address, twice": lambda key: quote(quote(key, safe=""), safe=""),
    "JSON, every character": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "JSON of PHP": lambda key: key.replace("/", "\\/"),
    "web page": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "base64 of a login": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "hexadecimal digits": lambda key: key.encode().hex(),
    "lines": lambda key: "\n".join(key[start : start + 9] for start in range(0, len(key), 9)),
}


def parts_of(text: str) -> set[str]:
    """The parts of a text that are long enough to be removed, without punctuation."""
    pieces = (text[start : start + 7] for start in range(len(text) - 6))
    return {piece.lower() for piece in pieces if piece.isalnum()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [KEY, "ab%41zQ-77%2Fyy.kkPq", "k\"e\\y'7&<x>Zq;9", "s3cRt7"])
@pytest.mark.parametrize("nested", [0, 1, 2])
def test_no_form_of_a_secret_is_left_in_what_a_server_says(
    form: str, key: str, nested: int
) -> None:
    said = f"the key {FORMS[form](key)} is bad"
    for _ in range(nested):
        said = json.dumps({"reason": said})
    shown = SecretFilter([key]).remove(said)
    assert "[key]" in shown
    left = re.sub(r"\W", "", shown.replace("dXNlcjp", "").replace("[key]", " ")).lower()  # "user:"
    assert not any(part in left for part in parts_of(FORMS[form](key)))


@pytest.mark.parametrize("key", ["none", "EMPTY", "ollama", "12345"])
def test_a_short_word_in_place_of_a_key_stays_in_texts(key: str) -> None:
    assert SecretFilter([key]).remove(f"{key}: model not found") == f"{key}: model not found"


@pytest.mark.parametrize(
    "text",
    [
        "align: 7, risk: 9",
        "the project is planned",
        "tenant and plan_",
        '\\u00e4 &amp; 100%25 "\\n"',
    ],
)
def test_ordinary_words_are_not_taken_for_a_part_of_a_secret(text: str) -> None:
    assert SecretFilter([KEY, HEADER_SECRET, "correcthorsebattery"]).remove(text) == text
