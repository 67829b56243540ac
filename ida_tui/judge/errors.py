"""Errors of judge requests, classified by how to react to them.

`redact` removes API keys from every text that a server sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

from ida_tui.errors import ExitCode, IdaError
from ida_tui.util.text import printable

MAX_MESSAGE_CHARS = 200
"""Maximum length of a displayed server message, in characters."""
MAX_WAIT_S = 1e9
"""Longest wait that is told apart, in seconds: 30 years."""
UNTRUSTED_CERTIFICATE = "untrusted_certificate"
"""`RequestFault.code` of a server whose TLS certificate is not trusted."""
OFFLINE_HINT = "or set judge=offline, which needs no key"

_NO_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_CONTENT_FILTER_CODES = {"content_filter", "content_policy_violation"}
_SECRET_PATTERN = re.compile(
    r"sk-[\w*-]{3,}"  # an OpenAI-style key, masked or not
    r"|(?<=bearer )\S+"
    r"|(?<=basic )[\w+/=-]{8,}"
    r"|[\w-]*\*{3,}[\w*-]*",  # any other masked key
    re.IGNORECASE,
)
_TOO_LONG_PATTERN = re.compile(r"context[_ ](?:length|window)|too many tokens", re.IGNORECASE)


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

    `kind` says how to react: `fatal` needs the user, `transient` is worth a retry, `parameter` and
    `format` call for a request with fewer features, `declined` means that a content filter refused
    the text, `rejected` fails this request only.
    """

    kind: Literal["fatal", "transient", "parameter", "format", "declined", "rejected"]
    text: str
    """A short message for display, without keys."""
    status: int | None = None
    code: str = ""
    parameter: str = ""
    """The request parameter that the server refused, for kind `parameter`."""
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


def classify_response(
    status: int,
    body: str,
    headers: Mapping[str, str],
    sent: Iterable[str],
    key: str | None,
) -> RequestFault:
    """Classify an HTTP error response.

    Args:
        status: the HTTP status, 400 or above.
        body: the text of the response.
        headers: the headers, with case-insensitive lookup.
        sent: the optional parameters of the request, one of which the server may name.
        key: the API key in use, to be removed from the text of the fault.
    """
    if 300 <= status < 400:
        return RequestFault("rejected", _redirect_text(status, headers, key), status)
    message, code, parameter = _error_fields(body)
    text = f"HTTP {status}: {redact(message, key)}" if message.strip() else f"HTTP {status}"
    if status in (401, 402, 403, 404) or code in _NO_CREDIT_CODES:
        return RequestFault("fatal", text, status, code)
    names = parameter or body
    if status in (400, 422):
        if code in _CONTENT_FILTER_CODES:
            return RequestFault("declined", text, status, code)
        if _TOO_LONG_PATTERN.search(f"{code} {message}"):
            return RequestFault("rejected", text, status, code)
        named = _first_named_parameter(names, sent) or _first_named_parameter(body, sent)
        if named and named != "response_format":
            return RequestFault("parameter", text, status, code, parameter=named)
        return RequestFault("format", text, status, code)
    if status == 500 and re.search(r"response_format|json_schema", body):
        return RequestFault("format", text, status, code)
    if status in (408, 409, 425, 429) or status >= 500:
        return RequestFault(
            "transient", text, status, code,
            retry_after_s=parse_retry_after(headers), overload=status in (429, 503),
        )  # fmt: skip
    return RequestFault("rejected", text, status, code)


def _redirect_text(status: int, headers: Mapping[str, str], key: str | None) -> str:
    """Where a redirect points to; it is not followed, so that no other host receives the prompt."""
    try:
        target = urlsplit(headers.get("location", ""))
        port = f":{target.port}" if target.port else ""
        place = f"{target.scheme}://{target.hostname}{port}" if target.hostname else "its own host"
    except ValueError:
        place = "an invalid address"
    return redact(
        f"HTTP {status}: redirects are not followed, and this one points to {place}; "
        "set judge.base_url to the final address",
        key,
    )


def _error_fields(body: str) -> tuple[str, str, str]:
    """The message, code and parameter of an error body; the full body if it has another shape."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body, "", ""
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error), "", ""
    message = error.get("message")
    codes = [str(error.get(name) or "") for name in ("code", "type")]
    code = next((c for c in codes if c in _NO_CREDIT_CODES), codes[0])
    parameter = error.get("param")
    return (
        message if isinstance(message, str) else body,
        code,
        parameter if isinstance(parameter, str) else "",
    )


def _first_named_parameter(text: str, sent: Iterable[str]) -> str:
    """The sent parameter that a message mentions first; empty if it mentions none."""
    aliases = {"json_schema": "response_format", "json_object": "response_format"}
    names = {name: name for name in sent}
    if "response_format" in names:
        names |= aliases
    positions = {
        name: match.start()
        for name in names
        if (match := re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    }
    return names[min(positions, key=lambda name: positions[name])] if positions else ""


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The wait in seconds from `retry-after-ms` or `Retry-After` (seconds or date); None if invalid."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return _finite_wait(float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return _finite_wait(float(value))
        moment = parsedate_to_datetime(value)
        return _finite_wait((moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _finite_wait(seconds: float) -> float | None:
    """The wait, from 0 to `MAX_WAIT_S`; None if it is NaN or infinite."""
    return min(max(0.0, seconds), MAX_WAIT_S) if math.isfinite(seconds) else None


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
    if key_name:
        set_key = f"export {key_name}=sk-..., or add {key_name}=sk-... to .env\n{OFFLINE_HINT}"
    else:
        set_key = (
            f"set api_key_env in the judge profile to the environment variable of the key\n"
            f"{OFFLINE_HINT}"
        )
    if fault.status == 402 or fault.code in _NO_CREDIT_CODES:
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
            f"this API key has no access to the judge {model}",
            f"use a key with access: {set_key}{server_message}",
        )
    problem = "rejected the API key" if key_name else "requires an API key"
    return JudgeUnavailable(f"the judge {model} {problem}", f"{set_key}{server_message}")
