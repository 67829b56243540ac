"""Address of a run on another machine: `ssh://[user@]host[:port]/path`; `/~/` is the home folder there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ida_tui.errors import UsageError

SCHEME = "ssh://"
MAX_PATH = 4000
"""Longest path, in characters."""
# What may not begin with a dash cannot be read as an option.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]")
_PARTS = re.compile(r"ssh://(?:([^/?#]*)@)?(\[[^\]/?#]*\]|[^:/?#@\[\]]*)(?::([^/?#@]*))?(/[^?#]*)?")
_EXAMPLE = "write ssh://[user@]host[:port]/path/to/run, or ssh://host/~/outputs/quickstart/latest"


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """A run directory on another machine."""

    host: str
    """A host name, an IP address, or a name of `~/.ssh/config`."""
    path: str
    """Absolute path, or one that starts with `~/`."""
    user: str = ""
    port: int | None = None

    @property
    def machine(self) -> str:
        """User, host and port as typed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}" if self.port is None else f"{user}{host}:{self.port}"

    def __str__(self) -> str:
        path = self.path if self.path.startswith("/") else f"/{self.path}"
        return f"{SCHEME}{self.machine}{quote(path, safe='/~')}"

    @property
    def shell_path(self) -> str:
        """The path as a word of a POSIX shell."""
        if self.path.startswith("~/"):
            return f'"$HOME"/{shlex.quote(self.path.removeprefix("~/") or ".")}'
        return shlex.quote(self.path)


def is_remote(name: str) -> bool:
    """Whether the name of a run is an address on another machine."""
    return name.lower().startswith(SCHEME)


def parse_address(text: str) -> RemoteAddress:
    """The address that a person typed.

    Raises:
        UsageError: it is not one, or a part of it could be an option or a command.
    """
    match = _PARTS.fullmatch(f"{SCHEME}{text[len(SCHEME) :]}") if is_remote(text) else None
    if match is None:
        raise _refusal("this is not the address of a run on another machine")
    user, host, port, raw_path = match.groups()
    if user is not None and ":" in user:
        raise UsageError(
            "the address contains a password",
            "remove it; ssh itself asks for a password, or uses a key",
            where="command line: RUN",
        )
    if user is not None and not _USER.fullmatch(user):
        raise _refusal("the user name in the address has characters that are not allowed")
    ipv6 = _IPV6.fullmatch(host)
    if ipv6 is None and not _HOST.fullmatch(host):
        raise _refusal("the host in the address is missing or has characters that are not allowed")
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise _refusal("the port in the address is not a number from 1 to 65535")
    path = unquote(raw_path or "")
    if path.startswith("/~/") or path == "/~":
        path = "~/" + path[3:]
    if len(path) < 2 or len(path) > MAX_PATH or not path.isprintable():
        raise _refusal(
            "the path in the address is missing, or has characters that are not printable"
        )
    return RemoteAddress(ipv6[1] if ipv6 else host, path, user or "", int(port) if port else None)


def _refusal(problem: str) -> UsageError:
    return UsageError(problem, _EXAMPLE, where="command line: RUN")
