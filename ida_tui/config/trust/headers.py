"""Headers of a judge's requests: variables in their values, and what must not stand in a profile."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ida_tui.util.secrets import is_key
from ida_tui.util.text import quoted

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_CREDENTIAL = re.compile(
    r"auth|cookie|token|secret|passw|credential|signature|api-?_?key|(?:^|[-_])key$", re.IGNORECASE
)
_SCHEME = re.compile(r"(?:bearer|basic|token|apikey|api-key)?\s*", re.IGNORECASE)
_OWN = frozenset(
    (
        "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection",
        "accept-encoding", "expect", "te", "trailer", "upgrade", "keep-alive", "proxy-authorization",
    )
)  # fmt: skip
"""Headers that belong to the connection."""


def header_variables(value: str) -> list[str]:
    """The environment variables in a header's value, such as `Bearer $GATEWAY_KEY`."""
    return [braced or plain for braced, plain in _VARIABLE.findall(value)]


def fill_header(value: str, environment: Mapping[str, str]) -> str:
    """The value of a header with the values of its variables; those that are missing are empty."""
    return _VARIABLE.sub(lambda match: environment.get(match[1] or match[2], ""), value)


def is_credential(name: str) -> bool:
    """Whether a header or a parameter of this name holds a secret."""
    return _CREDENTIAL.search(name) is not None


def is_header_text(value: str) -> bool:
    """Whether a value can be sent: printable ASCII, without line breaks."""
    return value.isascii() and value.isprintable()


def header_problem(name: str, value: str) -> tuple[str, str] | None:
    """Problem and fix of a header in a profile; None if it can be used. The value is not repeated."""
    shown = quoted(name)
    if not _NAME.fullmatch(name):
        return (
            f"{shown} cannot be the name of a header",
            "use letters, digits and dashes, such as X-Title",
        )
    if name.lower() in _OWN:
        return f"the header {shown} belongs to the connection", "remove it"
    if not is_header_text(value):
        return (
            f"the header {shown} has a line break, a control character or a letter outside of ASCII",
            "remove it; a header is one line of ASCII",
        )
    literal = _VARIABLE.sub("", value)
    if is_credential(name) and (not header_variables(value) or not _SCHEME.fullmatch(literal)):
        return (
            f"the header {shown} has its secret in the profile, which is written to every run directory",
            f"export the secret, and write the variable: {name}: $NAME (or Bearer $NAME)",
        )
    if any(is_key(word) for word in literal.split()):
        return (
            f"the header {shown} has a key in the profile, which is written to every run directory",
            f"export the key, and write the variable: {name}: $NAME",
        )
    return None
