"""Proxies that the environment names for an address, and why one cannot be used."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy of one address."""

    url: str
    """Its address, with the user and the password. Do not display it."""
    source: str
    """The variable that names it, or `the system's settings`."""

    @property
    def label(self) -> str:
        """Its host and port with the variable, for display."""
        try:
            parts = urlsplit(self.url)
            port = f":{parts.port}" if parts.port else ""
            host = f"{parts.hostname}{port}" if parts.hostname else "?"
        except ValueError:
            host = "?"
        return f"{host} ({self.source})"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS."""
        return self.url.startswith("socks")

    def problem(self) -> tuple[str, str] | None:
        """Why it cannot be used, and what to do; None if it can."""
        unset = f"or unset {self.source}, or add the host to NO_PROXY"
        if not self.source.isidentifier():
            unset = "or change these settings, or add the host to NO_PROXY"
        try:
            parts = urlsplit(self.url)
            valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            valid, parts = False, urlsplit("")
        if not valid or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            return (
                f"the proxy in {self.source} is not a URL",
                f"write it as http://proxy.example:8080, {unset}",
            )
        if parts.scheme not in PROXY_SCHEMES:
            return (
                f"the proxy in {self.source} has the scheme {parts.scheme}://, which is not supported",
                f"write it with {', '.join(f'{name}://' for name in PROXY_SCHEMES)}, {unset}",
            )
        if self.is_socks and importlib.util.find_spec("socksio") is None:
            return (
                f"{self.source} names a SOCKS proxy, but the support for SOCKS is not installed",
                f"install it: uv pip install socksio\n{unset}",
            )
        return None


def find_proxy(url: str) -> Proxy | None:
    """The proxy of an address; None without one, and for hosts that NO_PROXY lists."""
    from urllib.request import getproxies  # slow to import

    parts = urlsplit(url)
    named = getproxies()
    scheme = next((name for name in (parts.scheme, "all") if named.get(name)), None)
    host = parts.hostname or ""
    if scheme is None or _is_bypassed(host, parts.port, named.get("no", "")):
        return None
    address = named[scheme].strip()
    if "://" not in address:
        address = f"http://{address}"
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    source = next((name for name in names if os.environ.get(name)), "the system's settings")
    return Proxy(address, source)


def _is_bypassed(host: str, port: int | None, listed: str) -> bool:
    """Whether a host is reached directly: NO_PROXY lists it, its domain or its network."""
    from urllib.request import proxy_bypass

    if proxy_bypass(host) or (port and proxy_bypass(f"{host}:{port}")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in listed.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
