"""API key of a judge: where it comes from, which servers get it, and errors that do not show it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.config.schema import JudgeConfig
from ida_tui.errors import UsageError
from ida_tui.judge.api_key import is_local, load_api_key
from ida_tui.judge.errors import JudgeUnavailable

OPENAI = JudgeConfig(kind="openai", model="gpt-4o-mini", name="gpt-4o-mini")


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.usefixtures("no_key")
def test_a_missing_key_exits_with_3_and_names_both_ways_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(JudgeUnavailable) as caught:
        load_api_key(OPENAI, dotenv_dir=tmp_path)
    assert caught.value.code == 3
    assert "gpt-4o-mini" in caught.value.title
    assert "export OPENAI_API_KEY=sk-..." in caught.value.hint
    assert "OPENAI_API_KEY=sk-... to .env" in caught.value.hint
    assert "judge=offline, which needs no key" in caught.value.hint


@pytest.mark.usefixtures("no_key")
def test_the_key_comes_from_the_environment_first_then_from_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("export OPENAI_API_KEY='sk-from-file'\n")
    assert load_api_key(OPENAI, dotenv_dir=tmp_path) == "sk-from-file"
    monkeypatch.setenv("OPENAI_API_KEY", " sk-from-env \n")
    assert load_api_key(OPENAI, dotenv_dir=tmp_path) == "sk-from-env"


@pytest.mark.parametrize(
    ("base_url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost:1234/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.0.0.2/v1", False),
        ("https://localhost.example.com/v1", False),
        (None, False),
    ],
)
def test_only_loopback_addresses_are_local(base_url: str | None, local: bool) -> None:
    assert is_local(base_url) is local


def test_a_local_server_needs_no_key_and_does_not_receive_the_openai_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    config = JudgeConfig(kind="openai", model="local", base_url="http://localhost:8000/v1")
    assert load_api_key(config, dotenv_dir=tmp_path) is None
    keyless = OPENAI.model_copy(update={"base_url": "https://x.example/v1", "api_key_env": None})
    assert load_api_key(keyless, dotenv_dir=tmp_path) is None
    assert load_api_key(JudgeConfig(kind="offline"), dotenv_dir=tmp_path) is None


def test_an_invalid_key_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "“sk-secret”")
    with pytest.raises(JudgeUnavailable) as caught:
        load_api_key(OPENAI, dotenv_dir=tmp_path)
    assert "secret" not in "\n".join(caught.value.lines())


@pytest.mark.parametrize("address", ["http//localhost", "http://localhost:80x/v1", "http://"])
def test_an_invalid_base_url_is_a_usage_error(tmp_path: Path, address: str) -> None:
    config = JudgeConfig(kind="openai", model="local", base_url=address)
    with pytest.raises(UsageError, match="base_url is not a URL"):
        load_api_key(config, dotenv_dir=tmp_path)


def test_loading_the_key_imports_no_heavy_packages() -> None:
    code = (
        "import sys; import ida_tui.judge, ida_tui.judge.api_key, ida_tui.judge.service;"
        "heavy = {'openai', 'httpx2', 'torch', 'transformers', 'trl', 'textual'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
