"""What can go wrong between this program and a judge, typed by what to do about it.

No key ever leaves here: `redact` goes over every text that a server wrote.
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

from ida_tui.errors import ExitCode, IdaError

MAX_TEXT = 200
"""Longest server message shown, in characters."""
OFFLINE_HINT = "judge=offline runs without a key"

_OUT_OF_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_FILTERED = {"content_filter", "content_policy_violation"}
_SECRETS = re.compile(
    r"sk-[\w*-]{3,}"  # an OpenAI-style key, masked or not
    r"|(?<=bearer )\S+"
    r"|[\w-]*\*{3,}[\w*-]*",  # any other masked key
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"context[_ ](?:length|window)|too many tokens", re.IGNORECASE)


class JudgeUnavailable(IdaError):
    """The judge cannot be used until a person changes something: exit code 3."""

    def __init__(self, title: str, hint: str = "") -> None:
        super().__init__(title, hint, code=ExitCode.JUDGE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Fault:
    """One request that brought no reply.

    `kind` says what to do: `fatal` pauses judging, `passing` is worth a repeat, `parameter` and
    `format` ask for a poorer dialect, `declined` is a filter's no to this text, `rejected` concerns
    this one question.
    """

    kind: Literal["fatal", "passing", "parameter", "format", "declined", "rejected"]
    text: str
    """For people: short, redacted."""
    status: int | None = None
    code: str = ""
    parameter: str = ""
    """The request parameter that the server refused, for `parameter`."""
    retry_after_s: float | None = None
    """How long the server asks to wait."""
    overload: bool = False
    """The server is asked too much at once: fewer calls may help."""


def redact(text: str, key: str | None) -> str:
    """A server's message on one line, cut to `MAX_TEXT`, without the key or anything like one."""
    if key:
        text = text.replace(key, "[key]")
    text = _SECRETS.sub("[key]", text[:2000])
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def fault_of_response(
    status: int,
    body: str,
    headers: Mapping[str, str],
    sent: Iterable[str],
    key: str | None,
) -> Fault:
    """Sort an HTTP error.

    Args:
        status: the HTTP status, 400 or above.
        body: the response's text.
        headers: with case-insensitive look-up.
        sent: the optional parameters of the request, which the server may be naming.
        key: the key in use, to be kept out of the fault's text.
    """
    message, code, parameter = _error_fields(body)
    text = f"HTTP {status}: {redact(message, key)}" if message.strip() else f"HTTP {status}"
    if status in (401, 402, 403, 404) or code in _OUT_OF_CREDIT:
        return Fault("fatal", text, status, code)
    names = parameter or body
    if status in (400, 422):
        if code in _FILTERED:
            return Fault("declined", text, status, code)
        if _TOO_LONG.search(f"{code} {message}"):
            return Fault("rejected", text, status, code)
        named = _first_named(names, sent) or _first_named(body, sent)
        if named and named != "response_format":
            return Fault("parameter", text, status, code, parameter=named)
        return Fault("format", text, status, code)
    if status == 500 and re.search(r"response_format|json_schema", body):
        return Fault("format", text, status, code)
    if status in (408, 409, 425, 429) or status >= 500:
        return Fault(
            "passing", text, status, code,
            retry_after_s=retry_after(headers), overload=status in (429, 503),
        )  # fmt: skip
    return Fault("rejected", text, status, code)


def _error_fields(body: str) -> tuple[str, str, str]:
    """Message, code and parameter of an error body; the whole body where it has no such shape."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body, "", ""
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error), "", ""
    message = error.get("message")
    codes = [str(error.get(name) or "") for name in ("code", "type")]
    code = next((c for c in codes if c in _OUT_OF_CREDIT), codes[0])
    parameter = error.get("param")
    return (
        message if isinstance(message, str) else body,
        code,
        parameter if isinstance(parameter, str) else "",
    )


def _first_named(text: str, sent: Iterable[str]) -> str:
    """The sent parameter that a message names first; empty where it names none."""
    aliases = {"json_schema": "response_format", "json_object": "response_format"}
    names = {name: name for name in sent}
    if "response_format" in names:
        names |= aliases
    places = {
        name: match.start()
        for name in names
        if (match := re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    }
    return names[min(places, key=lambda name: places[name])] if places else ""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` (seconds or date)."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return _wait(float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return _wait(float(value))
        moment = parsedate_to_datetime(value)
        return _wait((moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _wait(seconds: float) -> float | None:
    """A wait that can be waited for; null for one that is no number or has no end."""
    return max(0.0, seconds) if math.isfinite(seconds) else None


def unavailable(fault: Fault, *, model: str, host: str, key_name: str | None) -> JudgeUnavailable:
    """The error for a `fatal` fault: what is wrong in one sentence, and what to type.

    `key_name` is the variable that held the key which was sent; null where none was.
    """
    said = f"\nthe server says: {fault.text}"
    change_key = f"set api_key_env in its profile to the variable with its key\n{OFFLINE_HINT}"
    if key_name:
        change_key = (
            f"export {key_name}=sk-..., or a line {key_name}=sk-... in .env\n{OFFLINE_HINT}"
        )
    if fault.status == 402 or fault.code in _OUT_OF_CREDIT:
        return JudgeUnavailable(
            f"the account behind the judge {model} has no credit left",
            f"add credit at {host}, or choose another judge\n{OFFLINE_HINT}{said}",
        )
    if fault.status == 404:
        return JudgeUnavailable(
            f"the judge {model} was not found at {host}",
            f"check model and base_url (it ends in /v1) in the judge's profile\n"
            f"{OFFLINE_HINT}{said}",
        )
    if fault.status == 403:
        return JudgeUnavailable(
            f"the judge {model} may not be used with this API key",
            f"use a key that may: {change_key}{said}",
        )
    title = f"the judge {model} " + ("rejected the API key" if key_name else "wants an API key")
    return JudgeUnavailable(title, f"{change_key}{said}")
