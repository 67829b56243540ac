"""Error responses of a judge's server, classified by how to react to them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ida_tui.judge.errors import NO_CREDIT_CODES, RequestFault, redact

MAX_WAIT_S = 1e9
"""Longest wait that is told apart, in seconds: 30 years."""
_CONTENT_FILTER_CODES = {"content_filter", "content_policy_violation"}
_TOO_LONG_PATTERN = re.compile(r"context[_ ](?:length|window)|too many tokens", re.IGNORECASE)


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
    if status in (401, 402, 403, 404) or code in NO_CREDIT_CODES:
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
    code = next((c for c in codes if c in NO_CREDIT_CODES), codes[0])
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
