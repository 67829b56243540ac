"""Recognition of secrets: keys in place of variable names, and environment variables that hold one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(
    r"(?i:sk|pk|rk|hf|gsk|xai|ghp|gho|ghs|github_pat|glpat|nvapi|aiza|r8)_?(?=\w*[a-z])(?=\w*[0-9])\w{16,}"
    r"|AKIA[0-9A-Z]{12,}"
    r"|[0-9A-Fa-f]{32,}"
    r"|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\w{20,}"
)
"""API keys that consist of letters, digits and underscores only, as names do."""
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


def _is_harmless(value: str) -> bool:
    """Whether a value is a boolean or an existing path, and so not secret whatever the variable's name."""
    if value.lower() in ("", "true", "false"):
        return True
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
