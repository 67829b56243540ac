"""Headers of a profile: variables in their values, secrets that must not stand there, and consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import JudgeConfig
from ida_tui.config.scoring_checks.request import check_request
from ida_tui.config.trust.consent import ConsentRequired, is_consent_key
from ida_tui.config.trust.headers import fill_header, header_problem, header_variables
from ida_tui.errors import UsageError
from ida_tui.judge.api_key import judge_secrets, load_api_key, load_headers
from ida_tui.judge.errors import JudgeUnavailable

HOST = "https://gateway.example/v1"


def judge(**changes: object) -> JudgeConfig:
    fields = {"kind": "openai", "model": "m", "base_url": HOST, "api_key_env": None}
    return JudgeConfig.model_validate({**fields, **changes})


def test_variables_in_a_value_are_filled() -> None:
    assert header_variables("Bearer ${A_B} and $C") == ["A_B", "C"]
    assert fill_header("Bearer ${A_B}$C", {"A_B": "1", "C": "2"}) == "Bearer 12"
    assert header_variables("costs 5$ or $$") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Title", "my run"),
        ("HTTP-Referer", "https://example.org"),
        ("Authorization", "Bearer $GATEWAY_KEY"),
        ("api-key", "${AZURE_OPENAI_API_KEY}"),
        ("X-Request-Source", "ida-tui"),
    ],
)
def test_a_header_without_a_secret_can_be_used(name: str, value: str) -> None:
    assert header_problem(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("Authorization", "Bearer abc", "its secret in the profile"),
        ("api-key", "abc", "its secret in the profile"),
        ("X-Api-Key", "abc$NAME", "its secret in the profile"),
        ("X-Auth-Token", "abc", "its secret in the profile"),
        ("Cookie", "session=1", "its secret in the profile"),
        ("Ocp-Apim-Subscription-Key", "abc", "its secret in the profile"),
        ("X-Other", "sk-0123456789abcdef0123", "a key in the profile"),
        ("X-Title", "two\r\nlines", "a line break"),
        ("X-Title", "naïve", "outside of ASCII"),
        ("X Title", "a", "cannot be the name of a header"),
        ("X-Title:", "a", "cannot be the name of a header"),
        ("Host", "other.example", "belongs to the connection"),
        ("Content-Length", "1", "belongs to the connection"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_without_its_value(
    name: str, value: str, problem: str
) -> None:
    found = header_problem(name, value)
    assert found is not None
    assert problem in found[0]
    assert value not in "".join(found) or value == "a"


def test_a_wrong_header_is_refused_with_its_line() -> None:
    Path("mine.yaml").write_text(
        f"extends: quickstart\njudge:\n  kind: openai\n  model: m\n  base_url: {HOST}\n"
        "  api_key_env: null\n  extra_headers:\n    Authorization: Bearer abcdefgh\n"
    )
    with pytest.raises(UsageError) as caught:
        resolve("mine.yaml")
    assert caught.value.where == "mine.yaml:8: judge.extra_headers.Authorization"
    assert "abcdefgh" not in "\n".join(caught.value.lines())


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"extra_body": {"model": "x"}}, "extra_body.model", "cannot replace the field model"),
        ({"extra_body": {"messages": []}}, "extra_body.messages", "cannot replace"),
        ({"extra_body": {"stream": True}}, "extra_body.stream", "cannot replace"),
        ({"extra_body": {"n": 2}}, "extra_body.n", "cannot replace"),
        ({"extra_body": {"api_key": "x"}}, "extra_body.api_key", "looks like a secret"),
        ({"extra_body": {"a": [{"b": "sk-0123456789abcdef0123"}]}}, "extra_body.a.0.b", "a secret"),
        ({"extra_query": {"key": "x"}}, "extra_query.key", "looks like a secret"),
        ({"extra_body": {"x": "y" * 30_000}}, "extra_body", "20,000 characters"),
        ({"extra_headers": {"X-Api-Key": "x"}}, "extra_headers.X-Api-Key", "its secret"),
        (
            {"kind": "offline", "extra_body": {"think": False}},
            "extra_body",
            "only a judge on a server",
        ),
    ],
)
def test_what_a_profile_must_not_add_is_refused(
    changes: dict[str, object], key: str, problem: str
) -> None:
    [finding, *_] = check_request("judge", judge(**changes))
    assert finding.about == f"judge.{key}"
    assert problem in finding.text


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
        {
            "extra_body": {
                "provider": {"order": ["a", "b"]},
                "max_tokens": 900,
                "stop_token_ids": [1],
            }
        },
        {"extra_query": {"api-version": "2024-10-21"}},
        {"extra_headers": {"X-Title": "x"}},
    ],
)
def test_what_servers_need_can_be_added(changes: dict[str, object]) -> None:
    assert list(check_request("judge", judge(**changes))) == []


def test_fields_can_be_typed() -> None:
    words = [
        "judge=ollama",
        "judge.extra_body.think=false",
        "judge.extra_body.options.num_ctx=8192",
    ]
    body = resolve("quickstart", words).config.judge.extra_body
    assert body == {"think": False, "options": {"num_ctx": 8192}}


# --- filling and consent ----------------------------------------------------------------------


def test_a_header_is_filled_from_the_environment_or_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("GATEWAY_KEY=from-a-file-1234\n")
    config = judge(extra_headers={"Authorization": "Bearer $GATEWAY_KEY"})
    headers = load_headers(config, dotenv_dir=tmp_path)
    assert headers.values == {"Authorization": "Bearer from-a-file-1234"}
    monkeypatch.setenv("GATEWAY_KEY", "from-the-environment")
    assert load_headers(config, dotenv_dir=tmp_path).secrets == ("from-the-environment",)
    assert judge_secrets(config, "key") == ("key", "from-the-environment")


@pytest.mark.parametrize("value", ["", "line\nbreak", "schlüssel"])
def test_a_variable_that_cannot_be_sent_ends_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", value)
    config = judge(extra_headers={"X-Api-Key": "$GATEWAY_KEY"})
    with pytest.raises(JudgeUnavailable, match="the header X-Api-Key needs GATEWAY_KEY") as caught:
        load_api_key(config, dotenv_dir=tmp_path)
    assert "export GATEWAY_KEY=" in caught.value.hint


def test_a_server_on_this_machine_does_not_get_openais_key_in_a_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    config = judge(base_url="http://127.0.0.1:1/v1", extra_headers={"api-key": "$OPENAI_API_KEY"})
    with pytest.raises(JudgeUnavailable, match="OPENAI_API_KEY is not sent to a server on this"):
        load_headers(config, dotenv_dir=tmp_path)


HEADER = "judge.extra_headers.X-Api-Key"


def test_a_strangers_header_gets_no_variable_without_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a-secret-value-1")
    theirs = Path("theirs.yaml")
    theirs.write_text(
        "extends: quickstart\njudge:\n  kind: openai\n  model: m\n"
        f"  base_url: {HOST}\n  api_key_env: null\n"
        "  extra_headers: {X-Api-Key: $GITHUB_TOKEN}\n"
    )
    with pytest.raises(ConsentRequired) as caught:
        resolve(str(theirs))
    text = "\n".join(caught.value.lines())
    assert "sends the environment variable GITHUB_TOKEN to https://gateway.example:443" in text
    assert f"judge.base_url={HOST} '{HEADER}=$GITHUB_TOKEN'" in text
    assert "a-secret-value" not in text
    assert is_consent_key(HEADER)

    words = [f"judge.base_url={HOST}", f"{HEADER}=$GITHUB_TOKEN"]
    for word in words:
        with pytest.raises(ConsentRequired):
            resolve(str(theirs), [word])
    resolve(str(theirs), words)

    mine = tmp_path / "user-profiles/judges/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        f"kind: openai\nmodel: m\nbase_url: {HOST}\napi_key_env: null\n"
        "extra_headers: {X-Api-Key: $GITHUB_TOKEN}\n"
    )
    resolve(str(theirs))
    theirs.write_text(theirs.read_text().replace(HOST, "https://elsewhere.example/v1"))
    with pytest.raises(ConsentRequired):
        resolve(str(theirs))
