"""Address of a judge's server: its host, its form for comparison, and what makes a `base_url` unusable."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

OPENAI_BASE_URL = "https://api.openai.com/v1"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL_PATTERN = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@\\:\[\]%]+)(:[0-9]{1,5})?(/[^\s?#\\]*)?"
)


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
    authority = re.split(r"[/?#\\]", base_url.partition("://")[2])[0]
    if "@" in authority:
        return (
            f"{key} contains a user name or a password, which would be written to disk",
            "remove everything up to the @; a judge's password belongs into the environment variable that"
            " judge.api_key_env names",
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
