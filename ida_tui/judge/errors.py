"""Errors of judge requests, classified by how to react to them.

`redact` removes API keys from every text that a server sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ida_tui.errors import ExitCode, IdaError
from ida_tui.util.text import printable

MAX_MESSAGE_CHARS = 200
"""Maximum length of a displayed server message, in characters."""
UNTRUSTED_CERTIFICATE = "untrusted_certificate"
"""`RequestFault.code` of a server whose TLS certificate is not trusted."""
REFUSED_FIELD = "refused_field"
"""`RequestFault.code` of a server that refuses a field of `judge.extra_body`."""
BLOCKED = "blocked"
"""`RequestFault.code` of a request that was turned away on its way to the server."""
OFFLINE_HINT = "or set judge=offline, which needs no key"

NO_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_SECRET_PATTERN = re.compile(
    r"sk-[\w*-]{3,}"  # an OpenAI-style key, masked or not
    r"|(?<=bearer )\S+"
    r"|(?<=basic )[\w+/=-]{8,}"
    r"|[\w-]*\*{3,}[\w*-]*",  # any other masked key
    re.IGNORECASE,
)


class JudgeUnavailable(IdaError):
    """The judge cannot be used until the user fixes something. Exit code 3."""

    def __init__(self, title: str, hint: str = "") -> None:
        super().__init__(title, hint, code=ExitCode.JUDGE_UNAVAILABLE)


class FunctionsUnavailable(JudgeUnavailable):
    """The reward functions cannot be used until the user corrects them. Exit code 1."""

    def __init__(self, title: str, hint: str = "") -> None:
        super().__init__(title, hint)
        self.code = ExitCode.FAILED


class JudgeInterrupted(Exception):
    """The requests were canceled because the user asked to stop or the service was closed."""


@dataclass(frozen=True, slots=True)
class RequestFault:
    """A request that got no usable reply.

    `kind` says how to react: `fatal` needs the user, `transient` is worth a retry, `refused` calls for a
    request with fewer features, `declined` means that a content filter refused the text, `rejected` fails
    this request only.
    """

    kind: Literal["fatal", "transient", "refused", "declined", "rejected"]
    text: str
    """A short message for display, without keys."""
    status: int | None = None
    code: str = ""
    features: frozenset[str] = frozenset()
    """What the server refused, for kind `refused`; empty if it names nothing."""
    retry_after_s: float | None = None
    """The wait that the server asks for; None if it names none."""
    overload: bool = False
    """Whether the server is overloaded, so that fewer concurrent calls may help."""
    unanswered: bool = False
    """Whether the request was sent but no reply arrived in time, so that it may be charged."""
    in_body: bool = False
    """Whether the fault is in the body of a response with status 200."""


def redact(text: str, key: str | None) -> str:
    """A server's message on one line, cut to `MAX_MESSAGE_CHARS` characters, with API keys removed."""
    if key:
        text = text.replace(key, "[key]")
    text = _SECRET_PATTERN.sub("[key]", text[:2000])
    text = " ".join(printable(text, " ").split())
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def unavailable_error(
    fault: RequestFault, *, model: str, host: str, key_name: str | None
) -> JudgeUnavailable:
    """The error for a `fatal` fault: what is wrong, and how to fix it.

    `key_name` is the environment variable of the key that was sent; None if no key was sent.
    """
    if fault.code == UNTRUSTED_CERTIFICATE:
        return JudgeUnavailable(
            f"the TLS certificate of {host} is not trusted: {fault.text}",
            "check judge.base_url; for a private server, set SSL_CERT_FILE to its CA certificate, and "
            f"on this machine use http://\n{OFFLINE_HINT}",
        )
    server_message = f"\nserver message: {fault.text}"
    if fault.code == REFUSED_FIELD:
        field = next(iter(fault.features))
        return JudgeUnavailable(
            f"the judge {model} refuses the field {field} of judge.extra_body",
            f"remove judge.extra_body.{field}, or ask another server\n{OFFLINE_HINT}{server_message}",
        )
    if fault.status == 407:
        return JudgeUnavailable(
            f"the proxy on the way to {host} requires a login",
            "write the address of the proxy with user and password in the variable that names it, such as "
            f"HTTPS_PROXY=http://user:password@proxy.example:8080{server_message}",
        )
    if fault.code == BLOCKED:
        return JudgeUnavailable(
            f"the request was turned away on its way to the judge {model} at {host}",
            "a firewall, a protection against robots, or a login page answered in place of the judge: check "
            f"judge.base_url, and whether a browser must log in first\n{OFFLINE_HINT}{server_message}",
        )
    if key_name:
        set_key = f"export {key_name}=sk-..., or add {key_name}=sk-... to .env\n{OFFLINE_HINT}"
    else:
        set_key = (
            f"set api_key_env in the judge profile to the environment variable of the key\n"
            f"{OFFLINE_HINT}"
        )
    if fault.status == 402 or fault.code in NO_CREDIT_CODES:
        return JudgeUnavailable(
            f"the account of the judge {model} has no credit left",
            f"add credit at {host}, or choose another judge\n{OFFLINE_HINT}{server_message}",
        )
    if fault.status == 404:
        return JudgeUnavailable(
            f"the judge {model} was not found at {host}",
            f"check model and base_url (which must end in /v1) in the judge profile\n"
            f"{OFFLINE_HINT}{server_message}",
        )
    if fault.status == 403:
        return JudgeUnavailable(
            f"{'this API key has' if key_name else 'a request without an API key has'} no access to "
            f"the judge {model}",
            f"use a key with access: {set_key}{server_message}",
        )
    problem = "rejected the API key" if key_name else "requires an API key"
    return JudgeUnavailable(f"the judge {model} {problem}", f"{set_key}{server_message}")
