"""Recognition of secrets, in names and in values, and their removal from texts."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

MIN_SECRET_LENGTH = 8
"""Shortest secret that is removed, in characters. Removing shorter values would garble ordinary words."""
_PART_LENGTH = 6
"""Shortest part of a secret that is removed from what a server says."""
_WORD_LENGTH = 10
"""The same for a part that has only lower-case letters, as ordinary words do."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(
    r"(?i:sk|pk|rk|hf|gsk|xai|ghp|gho|ghs|github_pat|glpat|nvapi|aiza|r8)_?(?=\w*[a-z])(?=\w*[0-9])\w{16,}"
    r"|AKIA[0-9A-Z]{12,}"
    r"|[0-9A-Fa-f]{32,}"
    r"|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\w{20,}"
)
"""API keys that consist of letters, digits and underscores only, as names do."""
_DASHED_KEY = re.compile(r"(?:sk|pk|rk|xai|glpat)-(?=[\w-]*[0-9])[\w-]{16,}")
_SECRET_NAME = re.compile(
    r"(?:_|^)(?:API_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|DSN)$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"[A-Za-z][\w+.-]*://[^\s/?#]*?:([^\s/?#]+)@")


def is_variable_name(text: str) -> bool:
    """Whether a text is the name of an environment variable, and not a key in its place."""
    return bool(_VARIABLE_NAME.fullmatch(text)) and not _KEY.fullmatch(text)


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The secrets in an environment: values of variables such as `HF_TOKEN`, and passwords in URLs."""
    secrets = []
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _is_harmless(value):
            secrets.append(value)
        secrets += [match.group(1) for match in _URL_PASSWORD.finditer(value)]
    return secrets


def environment_without_secrets() -> dict[str, str]:
    """The environment of this process without the variables that hold a secret, for a child process."""
    return {name: value for name, value in os.environ.items() if not secret_values({name: value})}


def is_key(text: str) -> bool:
    """Whether a text looks like a key, and not like a name or a number."""
    return bool(_KEY.fullmatch(text.replace("-", "_"))) or bool(_DASHED_KEY.match(text))


def secret_forms(secret: str) -> Iterator[str]:
    """A secret as it is, and as JSON, addresses and basic authorization write it."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode()


class SecretFilter:
    """Removes secrets from the texts of a server, also if it repeats only a part of one.

    Args:
        secrets: the secrets that it got; those shorter than `MIN_SECRET_LENGTH` are kept.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = [secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH]
        self._forms = sorted({form for s in known for form in secret_forms(s)}, key=len)[::-1]
        self._parts = {
            size: {s[i : i + size] for s in known for i in range(len(s) - size + 1)}
            for size in (_PART_LENGTH, _WORD_LENGTH)
        }

    def remove(self, text: str) -> str:
        """The text with `[key]` in place of every secret and of every part of one."""
        for form in self._forms:
            text = text.replace(form, "[key]")
        hidden = [False] * len(text)
        for size, parts in self._parts.items():
            for start in range(len(text) - size + 1 if parts else 0):
                part = text[start : start + size]
                if part in parts and (
                    size == _WORD_LENGTH or not part.islower() or not part.isalpha()
                ):
                    hidden[start : start + size] = [True] * size
        if not any(hidden):
            return text
        shown = []
        for position, character in enumerate(text):
            if not hidden[position]:
                shown.append(character)
            elif not position or not hidden[position - 1]:
                shown.append("[key]")
        return "".join(shown)


def _is_harmless(value: str) -> bool:
    """Whether a value is a boolean or an existing path, and so not secret whatever the variable's name."""
    if value.lower() in ("", "true", "false"):
        return True
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
