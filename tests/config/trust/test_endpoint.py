"""Address of a judge's server: the forms that are accepted, and the one that the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.addresses import with_environment_address
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import JudgeConfig
from ida_tui.config.trust.consent import ConsentRequired, remember_run
from ida_tui.config.trust.endpoint import base_url_problem, endpoint_source, may_get_variable
from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN, parse_yaml
from ida_tui.errors import UsageError

GATEWAY = "https://gateway.example/v1"
KEY = "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1"),
        (" http://127.0.0.1:9000/v1/ ", "http://127.0.0.1:9000/v1"),
        ("http://h/v1///", "http://h/v1"),
        ("HTTPS://API.example/v1", "https://API.example/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1/chat/completions/", "https://h/v1"),
        ("https://h", "https://h"),
        ("https://h/", "https://h"),
        ("https://x.services.ai.azure.com/models", "https://x.services.ai.azure.com/models"),
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
    ],
)
def test_an_address_whose_meaning_is_clear_is_used(written: str, used: str) -> None:
    judge = JudgeConfig(kind="openai", model="m", base_url=written)
    assert judge.base_url == used
    assert base_url_problem(used) is None
    assert JudgeConfig(kind="openai", model="m", base_url=used).base_url == used


@pytest.mark.parametrize(
    ("written", "problem", "fix"),
    [
        ("10.0.0.2:9000/v1", "is not a URL", "http:// or https://"),
        ("gpu-box:8000", "is not a URL", "http:// or https://"),
        ("http:/h/v1", "is not a URL", "http://"),
        ("http://", "is not a URL", "http://"),
        ("https://h/v 1", "is not a URL", "http://"),
        ("https://h/v1#x", "is not a URL", "#"),
        ("ftp://h/v1", "is not a URL", "http://"),
        ("https://me:pa55word@h/v1", "a user name or a password", "remove everything up to the @"),
        ("me:pa55word@h/v1", "a user name or a password", "remove everything up to the @"),
        ("https://h/v1?api-version=1", "parameters after a ?", "judge.extra_query"),
    ],
)
def test_any_other_address_is_one_error_that_does_not_repeat_it(
    written: str, problem: str, fix: str
) -> None:
    judge = JudgeConfig(kind="openai", model="m", base_url=written)
    found = base_url_problem(judge.base_url or "")
    assert found is not None
    assert problem in found[0]
    assert fix in found[1]
    assert "pa55word" not in "".join(found)


# --- OPENAI_BASE_URL --------------------------------------------------------------------------


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KEY, "a-secret-value-1")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{GATEWAY}/")
    return GATEWAY


def test_a_judge_without_an_address_is_asked_at_the_one_of_the_environment(gateway: str) -> None:
    resolved = resolve("quickstart", ["judge=gpt-4o-mini"])
    assert resolved.config.judge.base_url == gateway
    assert str(resolved.origins["judge.base_url"]) == "OPENAI_BASE_URL"
    assert endpoint_source(gateway) == " (OPENAI_BASE_URL)"


def test_the_old_name_of_the_variable_counts_if_the_new_one_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", GATEWAY)
    resolved = resolve("quickstart", ["judge=gpt-4o-mini"])
    assert resolved.config.judge.base_url == GATEWAY
    assert str(resolved.origins["judge.base_url"]) == "OPENAI_API_BASE"


def test_an_address_in_the_profile_and_another_kind_of_judge_stay_as_they_are(gateway: str) -> None:
    assert resolve("quickstart", ["judge=ollama"]).config.judge.base_url != gateway
    assert resolve("quickstart", ["judge=offline"]).config.judge.base_url is None
    openai = "https://api.openai.com/v1"
    typed = resolve("quickstart", ["judge=gpt-4o-mini", f"judge.base_url={openai}"])
    assert typed.config.judge.base_url == openai


def test_the_judges_of_a_panel_are_asked_there_too(gateway: str) -> None:
    panel = resolve("quickstart", ["judge.panel=[gpt-4o-mini,ollama]"]).config.judge
    assert [judge.base_url == gateway for judge in panel.members] == [True, False]


def test_a_run_keeps_the_address_that_it_was_started_with(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("quickstart", ["judge=gpt-4o-mini"]).config
    file = Path("outputs/quickstart/1/config.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(to_yaml(config))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/v1")
    with pytest.raises(ConsentRequired, match=r"OPENAI_API_KEY to https://gateway\.example:443"):
        resolve(str(file))
    monkeypatch.setenv("OPENAI_BASE_URL", gateway)
    remember_run(config, None)
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert resolve(str(file)).config.judge.base_url == gateway


def test_a_run_that_is_only_read_keeps_its_judge(gateway: str) -> None:
    file = Path("outputs/quickstart/1/config.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("extends: quickstart\njudge: gpt-4o-mini\n")
    assert resolve(str(file), verify=False).config.judge.base_url is None
    assert resolve(str(file)).config.judge.base_url == gateway


def test_the_environments_server_is_no_reason_to_send_other_variables_or_to_other_hosts(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a-secret-value-2")
    file = Path("theirs.yaml")
    for judge in ("api_key_env: GITHUB_TOKEN", "base_url: https://api.openai.com/v1"):
        file.write_text(f"extends: quickstart\njudge: {{extends: gpt-4o-mini, {judge}}}\n")
        with pytest.raises(ConsentRequired):
            resolve(str(file))
    file.write_text("extends: quickstart\njudge: gpt-4o-mini\n")
    assert resolve(str(file)).config.judge.base_url == gateway


def test_an_address_in_dotenv_gets_a_key_of_the_environment_only_after_a_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text(f"OPENAI_BASE_URL={GATEWAY}\n{KEY}=a-secret-value-3\n")
    assert resolve("quickstart", ["judge=gpt-4o-mini"]).config.judge.base_url == GATEWAY
    monkeypatch.setenv(KEY, "a-secret-value-1")
    with pytest.raises(ConsentRequired) as caught:
        resolve("quickstart", ["judge=gpt-4o-mini"])
    assert ".env: judge.base_url" in caught.value.where
    words = [f"judge.base_url={GATEWAY}", f"judge.api_key_env={KEY}"]
    assert resolve("quickstart", ["judge=gpt-4o-mini", *words]).config.judge.base_url == GATEWAY


def test_a_wrong_address_in_the_environment_is_one_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:pa55word@gateway.example/v1")
    with pytest.raises(UsageError) as caught:
        resolve("quickstart", ["judge=gpt-4o-mini"])
    text = "\n".join(caught.value.lines())
    assert "OPENAI_BASE_URL" in text
    assert "pa55word" not in text


def test_a_server_on_this_machine_gets_openais_key_only_if_the_environment_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = "http://127.0.0.1:4000/v1"
    assert not may_get_variable(local, KEY)
    assert may_get_variable(local, "GATEWAY_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", local)
    assert may_get_variable(local, KEY)
    assert not may_get_variable("http://127.0.0.1:5000/v1", KEY)


def test_an_experiment_without_a_judge_needs_no_address(gateway: str) -> None:
    tree = parse_yaml("{judge: gpt-4o-mini}", COMMAND_LINE_ORIGIN)
    assert with_environment_address(tree) == tree
