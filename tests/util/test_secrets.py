"""Recognition of secrets in an environment, and their removal from texts."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ida_tui.engine.run.secrets import Secrets
from ida_tui.judge.errors import redact
from ida_tui.util.secrets import environment_without_secrets, secret_values


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None),
        ("OPENAI_API_KEY", "sk-proj-a/b/cdefgh", None),
        ("SERVICE_TOKEN", "/begins/with/a/slash", None),
        ("PIN_PASSWORD", "1234567890", None),
        ("APIKEY", "abcdefgh", None),
        ("SSH_PASSPHRASE", "correct horse", None),
        ("DATABASE_URL", "postgres://me:hunter2-hunter2@db.example/x", "hunter2-hunter2"),
        ("OTHER", "redis://:hunter2-hunter2@db.example", "hunter2-hunter2"),
    ],
)
def test_secrets_are_removed_whatever_they_look_like(
    name: str, value: str, secret: str | None
) -> None:
    secrets = Secrets(None, {name: value})

    assert (secret or value) not in secrets.redact(f"before {value} after")
    assert "before" in secrets.redact(f"before {value} after")


def test_paths_and_booleans_are_not_secrets(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("")

    assert not secret_values({"X_TOKEN": str(file), "USE_TOKEN": "true", "PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize("key", ['with"quote-and\\slash', "with/slash+plus", "naïve-key-1"])
def test_a_key_is_removed_in_every_form_that_texts_give_it(key: str) -> None:
    secrets = Secrets(f'"{key}"', {})
    encoded = base64.b64encode(key.encode()).decode()

    for text in (key, json.dumps(key), json.dumps(key, ensure_ascii=False), encoded):
        assert text.strip('"') not in secrets.redact(f"Authorization: {text}")


def test_an_echoed_basic_header_is_removed_from_a_servers_message() -> None:
    header = base64.b64encode(b"me:hunter2-hunter2").decode()

    assert header not in redact(f"you sent Authorization: Basic {header}", None)


def test_a_child_that_needs_no_key_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret-value")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:hunter2-hunter2@db/x")

    environment = environment_without_secrets()

    assert not {"HF_TOKEN", "DATABASE_URL"} & environment.keys()
    assert "PATH" in environment
