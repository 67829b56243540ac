"""Address of a judge's server: where it is from, its host, and what makes a `base_url` unusable."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ida_tui.config.schema import OPENAI_BASE_URL as OPENAI_BASE_URL
from ida_tui.config.schema import normalize_base_url as normalize_base_url

OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
BASE_URL_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
"""Environment variables with the address of judges that name none; the second one is an old name."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL_PATTERN = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@\\:\[\]%]+)(:[0-9]{1,5})?(/[^\s?#\\]*)?"
)


@dataclass(frozen=True, slots=True)
class EnvironmentEndpoint:
    """The address of judges that name none."""

    base_url: str
    variable: str
    file: Path | None
    """The `.env` file that has it; None if the environment does."""


def environment_endpoint() -> EnvironmentEndpoint | None:
    """The address that the environment, or else `.env` in the working directory, names for OpenAI's API."""
    for variable in BASE_URL_VARIABLES:
        if value := os.environ.get(variable, "").strip():
            return EnvironmentEndpoint(normalize_base_url(value), variable, None)
        if value := dotenv_value(variable).strip():
            return EnvironmentEndpoint(normalize_base_url(value), variable, Path.cwd() / ".env")
    return None


def dotenv_value(variable: str) -> str:
    """The value of a variable in `.env` in the working directory; empty if it is not there."""
    file = Path.cwd() / ".env"
    try:
        return (file.is_file() and dotenv_values(file, interpolate=False).get(variable)) or ""
    except (OSError, UnicodeDecodeError):
        return ""


def endpoint_source(base_url: str | None) -> str:
    """The variable that names this address, in brackets for display; empty if none does."""
    named = environment_endpoint()
    return f" ({named.variable})" if named is not None and named.base_url == base_url else ""


def may_get_variable(base_url: str | None, variable: str) -> bool:
    """Whether a server may get a variable as a secret.

    OpenAI's key is not for a server on this machine, unless the environment names it for that key.
    """
    if variable != OPENAI_KEY_VARIABLE or not is_local(base_url):
        return True
    named = environment_endpoint()
    return named is not None and named.base_url == base_url


def host_of(base_url: str | None) -> str:
    """The host name of an endpoint, without user, password and port; empty if the URL is invalid."""
    try:
        parts = urlsplit(base_url or OPENAI_BASE_URL)
        _ = parts.port  # raises ValueError for an invalid port
        return parts.hostname or ""
    except ValueError:
        return ""


def is_local(base_url: str | None) -> bool:
    """Whether the server is on this machine: 127.0.0.0/8, ::1 or localhost."""
    host = host_of(base_url)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def endpoint_of(base_url: str | None) -> str:
    """Scheme, host and port of an endpoint, such as `https://api.openai.com:443`.

    Two URLs with the same endpoint reach the same server. Case, a trailing dot, a default port and the
    Unicode form of a host name make no difference.
    """
    parts = urlsplit(base_url or OPENAI_BASE_URL)
    host = _comparable_host(host_of(base_url))
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)}"


def base_url_problem(base_url: str, key: str = "judge.base_url") -> tuple[str, str] | None:
    """Problem and fix of a server's address at a key; None if it can be used. The text does not repeat it."""
    base_url = normalize_base_url(base_url)
    authority = re.split(r"[/?#\\]", base_url.partition("://")[2] or base_url)[0]
    if "@" in authority:
        return (
            f"{key} contains a user name or a password, which would be written to disk",
            "remove everything up to the @; a judge's password belongs into the environment variable that"
            " judge.api_key_env names",
        )
    if re.match(r"https?://[^/?#]+[^?#]*\?", base_url):
        return (
            f"{key} has parameters after a ?",
            "end it before the ?, and write them as judge.extra_query, such as {api-version: 2024-10-21}",
        )
    if not _URL_PATTERN.fullmatch(base_url) or not base_url.isprintable() or not host_of(base_url):
        return (
            f"{key} is not a URL",
            "write it as http://127.0.0.1:9000/v1, with http:// or https://, without ? and #",
        )
    return None


def _comparable_host(host: str) -> str:
    host = host.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if host.isascii():
        return host
    try:
        encoded = host.encode("idna")
        # A name that its encoding changes, such as one with ß, is another host under newer rules.
        return encoded.decode("ascii") if encoded.decode("idna") == host else host
    except UnicodeError:
        return host
