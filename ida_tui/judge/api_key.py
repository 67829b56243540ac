"""Lookup of the judge's API key, from the environment or `.env`.

The environment comes first, then `.env` in the working directory, which is read but never exported to
the process. The lookup runs before heavy imports, and the key is never displayed.
"""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from ida_tui.config.schema import JudgeConfig, JudgeKey
from ida_tui.config.trust.consent import OPENAI_KEY_VARIABLE
from ida_tui.config.trust.endpoint import OPENAI_BASE_URL as OPENAI_BASE_URL
from ida_tui.config.trust.endpoint import base_url_problem
from ida_tui.config.trust.endpoint import host_of as host_of
from ida_tui.config.trust.endpoint import is_local as is_local
from ida_tui.errors import UsageError
from ida_tui.judge.errors import OFFLINE_HINT, JudgeUnavailable

PLACEHOLDER_KEY = "no-key-needed"
"""Sent to a server that needs no key, because the client library requires one."""


def load_api_key(config: JudgeConfig, *, dotenv_dir: Path) -> JudgeKey:
    """Find the API key to send; None if the judge needs none.

    For a panel it is a tuple: the key of each judge, which only that judge's server gets.

    A judge on this machine needs no key, and never receives `OPENAI_API_KEY`. A key under another
    name is sent to it if it exists.

    Args:
        config: the judge profile.
        dotenv_dir: the folder of the `.env` file, normally the working directory.

    Raises:
        JudgeUnavailable: the key is missing or malformed (exit code 3).
        UsageError: the profile has no model, or its base_url is not a URL (exit code 2).
    """
    if config.kind == "panel":
        return tuple(_load_own_key(member, dotenv_dir) for member in config.members)
    return _load_own_key(config, dotenv_dir)


def _load_own_key(config: JudgeConfig, dotenv_dir: Path) -> str | None:
    """The key of one judge."""
    if config.kind != "openai":
        return None  # a plugin finds its own key
    _check_endpoint(config)
    name = config.api_key_env
    if name is None:
        return None
    local = is_local(config.base_url)
    if local and name == OPENAI_KEY_VARIABLE:
        return None
    key = (os.environ.get(name) or _read_dotenv(dotenv_dir / ".env", name) or "").strip()
    if not key:
        if local:
            return None
        raise JudgeUnavailable(
            f"the judge {config.model or config.name} needs an API key, but {name} is not set",
            f"export {name}=sk-..., or add {name}=sk-... to .env\n{OFFLINE_HINT}",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise JudgeUnavailable(
            f"the value of {name} is not an API key: it contains spaces or non-ASCII characters",
            f"paste the key again, without curly quotes: export {name}=sk-...\n{OFFLINE_HINT}",
        )
    return key


def _check_endpoint(config: JudgeConfig) -> None:
    if not config.model:
        raise UsageError(
            "the judge has no model",
            "set model in the judge profile, or judge.model=NAME on the command line",
            where="judge.model",
        )
    if config.base_url is not None and (problem := base_url_problem(config.base_url)):
        raise UsageError(*problem, where="judge.base_url")


def _read_dotenv(path: Path, name: str) -> str | None:
    try:
        return dotenv_values(path, interpolate=False).get(name) if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise JudgeUnavailable(
            f"could not read {path}: {reason}",
            f"export {name}=sk-... instead\n{OFFLINE_HINT}",
        ) from None
