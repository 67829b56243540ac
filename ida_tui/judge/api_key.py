"""The judge's API key: found before anything heavy is loaded, shown nowhere.

Order: the environment, then `.env` in the working directory (read, never exported to the process).
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ida_tui.config.schema import JudgeConfig
from ida_tui.errors import UsageError
from ida_tui.judge.errors import OFFLINE_HINT, JudgeUnavailable

OPENAI_BASE_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
PLACEHOLDER = "no-key-needed"
"""Sent where a server needs no key; the client library insists on one."""


def load_key(config: JudgeConfig, *, dotenv_dir: Path) -> str | None:
    """The key to send, or null where the judge needs none.

    A judge on this machine needs none, and OpenAI's own key is not handed to it; a key under
    another name is sent if it is found.

    Args:
        config: the judge.
        dotenv_dir: the folder whose `.env` is read, normally the working directory.

    Raises:
        JudgeUnavailable: a key is needed and there is none, or it cannot be one (exit code 3).
        UsageError: the profile has no model, or a base_url that is no address (exit code 2).
    """
    if config.kind != "openai":
        return None  # a plugin looks for its own
    _check_endpoint(config)
    name = config.api_key_env
    if name is None:
        return None
    local = is_local(config.base_url)
    if local and name == OPENAI_KEY:
        return None
    key = (os.environ.get(name) or _from_dotenv(dotenv_dir / ".env", name) or "").strip()
    if not key:
        if local:
            return None
        raise JudgeUnavailable(
            f"the judge {config.model or config.name} needs an API key, and {name} is not set",
            f"export {name}=sk-..., or a line {name}=sk-... in .env\n{OFFLINE_HINT}",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise JudgeUnavailable(
            f"the value of {name} is no API key: it holds spaces or characters outside ASCII",
            f"paste the key again, without curly quotes: export {name}=sk-...\n{OFFLINE_HINT}",
        )
    return key


def is_local(base_url: str | None) -> bool:
    """True for a server on this machine's loopback: 127.0.0.0/8, ::1 or localhost."""
    host = host_of(base_url)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(base_url: str | None) -> str:
    """The host name of an endpoint, without user, password and port; empty where there is none."""
    try:
        parts = urlsplit(base_url or OPENAI_BASE_URL)
        _ = parts.port  # raises where it is no number
        return parts.hostname or ""
    except ValueError:
        return ""


def _check_endpoint(config: JudgeConfig) -> None:
    if not config.model:
        raise UsageError(
            "the judge has no model",
            "set model in the judge's profile, or judge.model=NAME on the command line",
            where="judge.model",
        )
    if config.base_url is not None and not (
        config.base_url.startswith(("http://", "https://")) and host_of(config.base_url)
    ):
        raise UsageError(
            "base_url is no web address",
            "write it in full, such as http://localhost:8000/v1",
            where="judge.base_url",
        )


def _from_dotenv(path: Path, name: str) -> str | None:
    try:
        return dotenv_values(path, interpolate=False).get(name) if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise JudgeUnavailable(
            f"{path} cannot be read: {why}",
            f"export {name}=sk-... instead\n{OFFLINE_HINT}",
        ) from None
