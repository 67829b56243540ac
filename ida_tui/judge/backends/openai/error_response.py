"""Error responses of a judge's server, classified by how to react to them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from urllib.parse import urlsplit

from ida_tui.judge.backends.openai.refusal import read_refusal
from ida_tui.judge.errors import BLOCKED, NO_CREDIT_CODES, REFUSED_FIELD, RequestFault, redact
from ida_tui.util.text import quoted

MAX_WAIT_S = 1e9
"""Longest wait that is told apart, in seconds: 30 years."""
_CONTENT_FILTER_CODES = {
    "content_filter", "content_policy_violation", "data_inspection_failed", "1301",
}  # fmt: skip
_CONTENT_FILTER_PATTERN = re.compile(
    r"(?:prompt|input|text|request)\b.{0,30}\bflagged|content[_ ]filters?\b|content exists risk"
    r"|(?:usage|content|content management) policy\b|inappropriate content|敏感内容",
    re.IGNORECASE,
)
_NO_CREDIT_PATTERN = re.compile(
    r"credit balance is too low|insufficient (?:credits?|balance|funds)|out of credits?\b|余额不足"
    r"|(?:have|has|n't have|not have) (?:any|no|enough) credits?\b",
    re.IGNORECASE,
)
_TOO_LONG_PATTERN = re.compile(
    r"context[_ ](?:length|window|size)|too many tokens|reduce (?:the|your) (?:length|message|prompt|input)"
    r"|\b(?:inputs?|prompt|request)\b.{0,40}\b(?:too (?:long|large)|exceeds?\b|longer than)"
    r"|\binput(?: token)? length\b|\binputs`? tokens\b|maximum model length",
    re.IGNORECASE,
)
_NO_ROUTE_PATTERN = re.compile(r"missing authentication token", re.IGNORECASE)
"""What Amazon's gateways say, with status 403, about an address that they do not know."""
_TOO_LONG_REMEDY = (
    "the request is too long for the server: lower judge.max_judged_chars, "
    "or give the model a longer context"
)
_KEY_PATTERN = re.compile(
    r"api[_ ]key (?:is )?(?:not valid|invalid|expired)|(?:invalid|incorrect)[_ ]api[_ ]key|api_key_invalid",
    re.IGNORECASE,
)
_MODEL_PATTERN = re.compile(
    r"(?:unknown|invalid|no such)[_ ]model|model_not_(?:found|supported)|no models? (?:is |are )?loaded"
    r"|\bmodel\b.{0,80}\b(?:not found|does(?: not|n't) exist|not exist|not supported by any)"
    r"|inference profile",
    re.IGNORECASE,
)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)
_MESSAGE_KEYS = (
    "error",
    "message",
    "msg",
    "detail",
    "errors",
    "error_description",
    "description",
    "title",
)
_READ_CHARS = 4000
"""Length of the part of a message that is searched for causes."""
_SHOWN_ERRORS = 3
"""Largest number of errors of a list that are shown."""


def classify_response(
    status: int,
    body: str,
    headers: Mapping[str, str],
    sent: Collection[str],
    key: str | None,
    own: Collection[str] = (),
) -> RequestFault:
    """Classify an HTTP error response.

    Args:
        status: the HTTP status, 300 or above.
        body: the text of the response.
        headers: the headers, with case-insensitive lookup.
        sent: the optional parameters of the request, some of which the server may name.
        key: the API key in use, to be removed from the text of the fault.
        own: those of the parameters that the user added in `judge.extra_body`.
    """
    if 300 <= status < 400:
        return RequestFault("rejected", _redirect_text(status, headers, key), status)
    message, code = _error_fields(body)
    text = f"HTTP {status}: {redact(message, key)}" if message.strip() else f"HTTP {status}"
    words = f"{code} {message}"[:_READ_CHARS]
    if status in (400, 403, 422):
        is_filtered = code in _CONTENT_FILTER_CODES or _CONTENT_FILTER_PATTERN.search(words)
        if is_filtered or '"flagged_input"' in body:
            return RequestFault("declined", text, status, code)
        if _NO_CREDIT_PATTERN.search(words):
            return RequestFault("fatal", text, 402, code)
    if status == 403 and _NO_ROUTE_PATTERN.search(words):
        return RequestFault("fatal", text, 404, code)
    is_page = _TITLE.search(body[:20_000]) or body.startswith("error code: 10")
    if status == 511 or (status == 403 and is_page):
        return RequestFault("fatal", text, status, BLOCKED)
    if status == 405:
        return RequestFault("fatal", text, 404, code)
    if status in (401, 402, 403, 404, 407) or code in NO_CREDIT_CODES:
        return RequestFault("fatal", text, status, code)
    if status in (400, 413, 422, 500) and _TOO_LONG_PATTERN.search(words):
        return RequestFault("rejected", f"{text.rstrip('.')}: {_TOO_LONG_REMEDY}", status, code)
    if status in (400, 422) and _KEY_PATTERN.search(words):
        return RequestFault("fatal", text, 401, code)
    if status in (400, 422, 500, 501):
        refusal = read_refusal(body, sent, own)
        if refusal.own_field:
            return RequestFault(
                "fatal", text, status, REFUSED_FIELD, features=frozenset((refusal.own_field,))
            )
        if refusal.features:
            return RequestFault("refused", text, status, code, features=refusal.features)
        if status in (400, 422):
            if _MODEL_PATTERN.search(words):
                return RequestFault("fatal", text, 404, code)
            return RequestFault("refused", text, status, code)
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
        "set judge.base_url to the final address, or log in there first if it is a login page",
        key,
    )


def _error_fields(body: str) -> tuple[str, str]:
    """The message and the code of an error body; the full body if it has no message."""
    if title := _TITLE.search(body[:20_000]):
        return f"a web page with the title {quoted(' '.join(unescape(title[1]).split()))}", ""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body, ""
    error = data.get("error", data) if isinstance(data, dict) else data
    code = ""
    if isinstance(error, dict):
        codes = [str(error.get(name) or "") for name in ("code", "type")]
        code = next((c for c in codes if c in NO_CREDIT_CODES), codes[0])
    return error_message(data) or body, code


def error_message(value: object, depth: int = 6) -> str:
    """The message in an error body of any shape; empty if there is none."""
    if isinstance(value, str):
        return value
    if not depth or isinstance(value, int | float | None):
        return "" if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, list):
        messages = [error_message(item, depth - 1) for item in value[:_SHOWN_ERRORS]]
        return "; ".join(message for message in messages if message)
    if not isinstance(value, dict):
        return ""
    for name in _MESSAGE_KEYS:
        if name in value and (message := error_message(value[name], depth - 1)):
            place = value.get("loc")
            if isinstance(place, list):
                message = f"{'.'.join(map(str, place))}: {message}"
            metadata = value.get("metadata")
            if isinstance(metadata, dict) and isinstance(raw := metadata.get("raw"), str):
                message = f"{message}: {raw}"  # OpenRouter puts the provider's own error there
            return message
    return ""


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
