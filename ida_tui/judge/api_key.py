"""Lookup of a judge's secrets, its API key and those in its headers, from the environment or `.env`.

The environment comes first, then `.env` in the working directory, which is read but never exported to
the process. The lookup runs before heavy imports, and a secret is never displayed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from ida_tui.config.schema import JudgeConfig, JudgeKey
from ida_tui.config.trust.endpoint import OPENAI_BASE_URL as OPENAI_BASE_URL
from ida_tui.config.trust.endpoint import base_url_problem, may_get_variable
from ida_tui.config.trust.endpoint import host_of as host_of
from ida_tui.config.trust.endpoint import is_local as is_local
from ida_tui.config.trust.headers import (
    fill_header,
    header_problem,
    header_variables,
    is_header_text,
)
from ida_tui.errors import UsageError
from ida_tui.judge.errors import OFFLINE_HINT, JudgeUnavailable
from ida_tui.util.proxies import Proxy, find_proxy


@dataclass(frozen=True, slots=True)
class FilledHeaders:
    """The headers of a profile with the values of their variables. Do not display them."""

    values: Mapping[str, str]
    secrets: tuple[str, ...]
    """The values of the variables in them."""


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


def load_headers(config: JudgeConfig, *, dotenv_dir: Path) -> FilledHeaders:
    """The headers of one judge, for which the person has agreed to send their variables to its server.

    Args:
        config: the judge profile.
        dotenv_dir: the folder of the `.env` file, normally the working directory.

    Raises:
        JudgeUnavailable: a variable is missing or cannot be sent (exit code 3).
        UsageError: a header in the profile cannot be used (exit code 2).
    """
    values: dict[str, str] = {}
    secrets: list[str] = []
    for name, text in config.extra_headers.items():
        if problem := header_problem(name, text):
            raise UsageError(*problem, where=f"judge.extra_headers.{name}")
        filled = {}
        for variable in header_variables(text):
            if not may_get_variable(config.base_url, variable):
                raise JudgeUnavailable(
                    f"{variable} is not sent to a server on this machine",
                    f"use another variable in judge.extra_headers.{name}, or remove the header",
                )
            value = _read_variable(variable, dotenv_dir)
            if not value or not is_header_text(value):
                problem_text = (
                    "is not set" if not value else "cannot be sent: it is not a line of ASCII"
                )
                raise JudgeUnavailable(
                    f"the header {name} needs {variable}, which {problem_text}",
                    f"export {variable}=..., or add {variable}=... to .env\n{OFFLINE_HINT}",
                )
            filled[variable] = value
        values[name] = fill_header(text, filled)
        secrets += filled.values()
    return FilledHeaders(values, tuple(secrets))


def judge_secrets(config: JudgeConfig, key: JudgeKey) -> tuple[str | None, ...]:
    """All secrets that a judge sends: its keys, and the variables in its headers that are set."""
    variables = {
        variable
        for member in config.members
        for text in member.extra_headers.values()
        for variable in header_variables(text)
    }
    values = [_read_variable(variable, Path.cwd()) for variable in sorted(variables)]
    return (*(key if isinstance(key, tuple) else (key,)), *values)


def require_usable_proxy(base_url: str) -> Proxy | None:
    """The proxy that the environment names for a server; None for one on this machine.

    Raises:
        JudgeUnavailable: it cannot be used.
    """
    proxy = None if is_local(base_url) else find_proxy(base_url)
    if proxy is not None and (problem := proxy.problem()):
        title, fix = problem
        raise JudgeUnavailable(title, f"{fix}\n{OFFLINE_HINT}")
    return proxy


def _load_own_key(config: JudgeConfig, dotenv_dir: Path) -> str | None:
    """The key of one judge, whose headers and proxy are usable, too."""
    if config.kind != "openai":
        return None  # a plugin finds its own key
    _check_endpoint(config)
    load_headers(config, dotenv_dir=dotenv_dir)
    require_usable_proxy(config.base_url or OPENAI_BASE_URL)
    name = config.api_key_env
    if name is None or not may_get_variable(config.base_url, name):
        return None
    local = is_local(config.base_url)
    key = _read_variable(name, dotenv_dir)
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


def _read_variable(name: str, dotenv_dir: Path) -> str:
    """The value of a variable in the environment or `.env`; empty if it has none."""
    return (os.environ.get(name) or _read_dotenv(dotenv_dir / ".env", name) or "").strip()


def _read_dotenv(path: Path, name: str) -> str | None:
    try:
        return dotenv_values(path, interpolate=False).get(name) if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise JudgeUnavailable(
            f"could not read {path}: {reason}",
            f"export {name}=sk-... instead\n{OFFLINE_HINT}",
        ) from None
