"""Replies of an OpenAI-compatible server: any body with status 200, read as a `ServerReply` or a fault.

Servers differ in where they put the text of the judge: a string, a list of parts, an object, the arguments of
a tool call, a field for thoughts, or a stream of chunks. Errors come with status 200, too; so do web pages.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from ida_tui.judge.backends.openai.error_response import classify_response, error_message
from ida_tui.judge.backends.openai.json_parts import to_json
from ida_tui.judge.errors import RequestFault, redact
from ida_tui.util.text import parse_json, printable

MAX_TOKENS = 10_000_000
"""Largest token count to believe."""
MAX_NAME_CHARS = 200
"""Longest name of a model and longest fingerprint that are kept; the rest is cut."""
MAX_TITLE_CHARS = 60
NOT_A_COMPLETION = "the response is not a chat completion; check that base_url ends in /v1"
_TRUNCATED = {"length", "max_tokens", "max_output_tokens", "model_length", "token_limit"}
_FILTERED = (
    "content_filter", "safety", "prohibited_content", "refusal", "recitation", "blocklist", "spii",
)  # fmt: skip
"""Starts of the reasons for which a filter ends a reply."""
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_THOUGHT_TYPES = ("thinking", "reasoning", "summary")
_COMMENTS = re.compile(r"\A(?:\s*:[^\r\n]*)+(?=\s*\{)")
"""Comments of a stream that keep a connection open, in front of a reply that is none."""
_STREAM = re.compile(r"(?:data|event|id|retry)?:", re.ASCII)
_OVERLOADED = re.compile(
    r"overload|\bbusy\b|try again|at capacity|timed out|timeout|rate limit", re.IGNORECASE
)
"""Words of an error without a code that may pass."""
_STATUS_OF_CODE = {
    "authentication_error": 401, "invalid_api_key": 401, "permission_error": 403,
    "model_not_found": 404, "not_found_error": 404, "insufficient_quota": 429,
    "rate_limit_error": 429, "rate_limit_exceeded": 429, "overloaded_error": 503,
    "api_error": 500, "internal_server_error": 500, "server_error": 500,
    "content_filter": 400, "context_length_exceeded": 400, "invalid_request_error": 400,
}  # fmt: skip
"""HTTP status that an error code without a number stands for."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A server's response with status 200."""

    text: str
    """The text of the judge, without a thought that the server told apart; empty if there is none."""
    declined: bool
    """Whether the judge refused or its output was filtered."""
    truncated: bool
    """Whether the reply reached the token limit."""
    model: str | None
    """The model that the server reports."""
    fingerprint: str | None
    """The `system_fingerprint` of the reply."""
    input_tokens: int | None
    """None if the server reports no usage."""
    output_tokens: int | None
    thought: str = ""
    """The thought, if the server told it apart from the text."""
    cached_tokens: int = 0
    """Prompt tokens in the server's cache that are not in `input_tokens`."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is known of the request whose response is read."""

    key: str | None
    sent: Collection[str]
    own: Collection[str]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk of a stream, or a whole reply."""

    text: str = ""
    thought: str = ""
    arguments: str = ""
    """Arguments of tool calls."""
    refused: bool = False
    finish_reason: str = ""
    model: str | None = None
    fingerprint: str | None = None
    usage: Mapping[str, object] | None = None


def parse_reply(
    text: str, key: str | None, sent: Collection[str] = (), own: Collection[str] = ()
) -> ServerReply | RequestFault:
    """Read the body of a response with status 200. Never raises.

    Args:
        text: the body.
        key: the API key, which is removed from the text of a fault.
        sent: the optional parameters of the request, one of which an error may name.
        own: those of the parameters that the user added.
    """
    text = _COMMENTS.sub("", text.removeprefix("\ufeff")).strip(" \t\r\n\0")
    if not text:
        return _fault("transient", "the server sent an empty response")
    if text.startswith("<"):
        return _fault("rejected", _describe_page(text))
    pieces: list[_Piece] = []
    bodies = _bodies(text)
    for body in bodies:
        if len(bodies) > 1 and isinstance(body, dict) and body.get("choices") == []:
            body = {"usage": {}} | body  # the first chunk of Azure, or the last one of others
        piece = _read_body(body, _Reading(key, sent, own))
        if isinstance(piece, RequestFault):
            return piece
        pieces.append(piece)
    if not pieces:
        return _fault("rejected", NOT_A_COMPLETION)
    if any(piece.finish_reason == "error" for piece in pieces):
        return _fault("transient", "the server ended the reply with an error")
    return _join(pieces)


def _fault(kind: Literal["transient", "rejected"], text: str) -> RequestFault:
    """A fault in the body of a response with status 200."""
    return RequestFault(kind, text, in_body=True)


def _describe_page(text: str) -> str:
    """What a web page in place of a reply says, and what to do."""
    match = re.search(r"<title[^>]*>([^<]{1,500})", text[:20_000], re.IGNORECASE)
    title = redact(html.unescape(match[1]), None).strip()[:MAX_TITLE_CHARS] if match else ""
    named = f' ("{title}")' if title else ""
    return (
        f"a web page{named} came in place of a verdict, such as a login page or the page of a proxy: "
        "check judge.base_url, and whether a browser must log in first"
    )


# --- bodies and streams ------------------------------------------------------------------------


def _bodies(text: str) -> list[object]:
    """The JSON values of a body: one, or those of a stream; empty if it is not JSON."""
    if _STREAM.match(text):
        return list(_events(text))
    with suppress(ValueError):
        value = parse_json(text)
        return [parse_json(value) if isinstance(value, str) else value]
    try:  # one JSON object a line
        return [parse_json(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return []


def _events(text: str) -> Iterator[object]:
    """The JSON values of server-sent events; anything else in them is left out."""
    for event in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        data = [line[5:].strip() for line in event.split("\n") if line.startswith("data:")]
        # The lines of an event belong together, but some servers leave out the empty line after it.
        for candidate in ("\n".join(data), *data) if len(data) > 1 else data:
            try:
                yield parse_json(candidate)
            except ValueError:
                continue  # [DONE], or one part of several
            if candidate is not data[-1]:
                break


def _join(pieces: Sequence[_Piece]) -> ServerReply:
    """The reply of which these are the pieces, in order."""
    text = "".join(piece.text for piece in pieces)
    finish_reason = next((p.finish_reason for p in reversed(pieces) if p.finish_reason), "")
    usage = next((p.usage for p in reversed(pieces) if p.usage is not None), {})
    refused = any(piece.refused for piece in pieces)
    return ServerReply(
        text=text if text.strip() else "".join(piece.arguments for piece in pieces),
        declined=refused or finish_reason.startswith(_FILTERED),
        truncated=finish_reason in _TRUNCATED,
        model=_short_name(next((p.model for p in pieces if p.model), None)),
        fingerprint=_short_name(next((p.fingerprint for p in pieces if p.fingerprint), None)),
        input_tokens=_first_count(usage, "prompt_tokens", "input_tokens", "prompt_eval_count"),
        output_tokens=_first_count(usage, "completion_tokens", "output_tokens", "eval_count"),
        thought="".join(piece.thought for piece in pieces),
        cached_tokens=sum(
            _token_count(usage.get(name)) or 0
            for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
        ),
    )


# --- one body --------------------------------------------------------------------------------


def _read_body(body: object, read: _Reading) -> _Piece | RequestFault:
    """Read one JSON value of a response."""
    if isinstance(body, list) and len(body) == 1:
        [body] = body
    if not isinstance(body, dict):
        return _fault("rejected", NOT_A_COMPLETION)
    body = _unwrap(body)
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    # Ollama's own API has the message beside the reason of its end.
    own_api = isinstance(body.get("message"), dict)
    choice = first if isinstance(first, dict) else body if own_api else None
    for error in (body.get("error"), body.get("errors"), (choice or {}).get("error")):
        if any(error.values()) if isinstance(error, dict) else error:
            return _read_error(error, body, read)
    usage = body.get("usage", body)
    shared = _Piece(
        model=_text_or_none(body.get("model")),
        fingerprint=_text_or_none(body.get("system_fingerprint")),
        usage=usage if isinstance(usage, dict) else None,
    )
    if choice is not None:
        return _read_choice(choice, shared)
    if isinstance(choices, list) and isinstance(usage, dict) and usage is not body:
        return shared  # the last chunk of a stream
    for name in ("message", "detail", "msg"):
        if body.get(name):
            return _read_error(body, body, read)
    if "choices" in body:
        return _fault("transient", "the response has no choices")
    return _fault("rejected", NOT_A_COMPLETION)


def _unwrap(body: dict[str, object]) -> dict[str, object]:
    """A body without what a gateway puts around it, and a message of Anthropic's own API as a choice."""
    if "choices" not in body:
        inner = next(
            (body[name] for name in ("data", "result", "response") if body.get(name)), None
        )
        if isinstance(inner, dict) and "choices" in inner:
            return inner
        if body.get("type") == "message" and isinstance(body.get("content"), list):
            return body | {"choices": [{"message": body, "stop_reason": body.get("stop_reason")}]}
    return body


def _read_choice(choice: Mapping[str, object], shared: _Piece) -> _Piece:
    """The message or the part of a message in one choice."""
    message = choice.get("message") or choice.get("delta") or choice.get("text")
    message = message if isinstance(message, dict) else {"content": message}
    text, thought = _split_content(message.get("content"))
    reasons = [choice.get(name) for name in ("finish_reason", "done_reason", "stop_reason")]
    if not thought:
        fields = (_flatten(message.get(name)) for name in _THOUGHT_FIELDS)
        thought = next(filter(None, fields), "")
    refused = bool(message.get("refusal")) or _has_refusal(message.get("content"))
    return replace(
        shared,
        text=text,
        thought=thought,
        arguments=_tool_arguments(message),
        refused=refused,
        finish_reason=next((r.casefold() for r in reasons if isinstance(r, str) and r), ""),
    )


def _split_content(content: object) -> tuple[str, str]:
    """The text and the thought in the content of a message."""
    if isinstance(content, str) or content is None:
        return content or "", ""
    if not isinstance(content, list):
        content = [content]
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if not isinstance(part, dict):
            texts.append(part if isinstance(part, str) else to_json(part))
        elif str(part.get("type", "")).startswith(_THOUGHT_TYPES):
            thoughts.append(_flatten(part))
        elif "text" in part:
            texts.append(_flatten(part["text"]))
        elif "type" not in part:
            texts.append(to_json(part))  # the verdict itself
    return "".join(texts), "\n".join(filter(None, thoughts))


def _has_refusal(content: object) -> bool:
    """Whether a part of a message's content is a refusal."""
    parts = content if isinstance(content, list) else [content]
    return any(isinstance(part, dict) and part.get("refusal") for part in parts)


def _flatten(value: object, depth: int = 0) -> str:
    """The text in a thought: a string, or parts of several kinds."""
    if isinstance(value, str):
        return value
    if depth > 3:
        return ""
    if isinstance(value, list):
        return "".join(_flatten(item, depth + 1) for item in value)
    if isinstance(value, dict):
        names = ("thinking", "reasoning", "text", "summary", "content", "value")
        return next(filter(None, (_flatten(value.get(name), depth + 1) for name in names)), "")
    return ""


def _tool_arguments(message: Mapping[str, object]) -> str:
    """The arguments of the tool calls in a message, one after the other; empty without any."""
    calls = message.get("tool_calls")
    functions = (
        [c.get("function") for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
    )
    arguments = [
        function.get("arguments")
        for function in (*functions, message.get("function_call"))
        if isinstance(function, dict)
    ]
    return "".join(a if isinstance(a, str) else to_json(a) for a in arguments if a)


# --- errors ----------------------------------------------------------------------------------


def _read_error(error: object, body: Mapping[str, object], read: _Reading) -> RequestFault:
    """The fault of an error in a body; its code decides as the status of a response would."""
    shown = redact(error_message(error), read.key)
    if _is_flagged(error):
        return RequestFault("declined", shown or "the text was flagged", in_body=True)
    codes = [*_codes(error), *_codes({k: v for k, v in body.items() if k != "error"})]
    statuses = (
        int(code)
        if re.fullmatch(r"[45]\d\d", code, re.ASCII)
        else _STATUS_OF_CODE.get(code.casefold())
        for code in codes
    )
    status = next(filter(None, statuses), None)
    fields: dict[str, object] = {"message": error_message(error)}
    if status is None:
        fault = classify_response(
            400, json.dumps({"error": fields}), {}, read.sent, read.key, read.own
        )
        if fault.kind in ("fatal", "declined") or fault.features:
            return replace(fault, text=f"the server reports: {shown}", in_body=True)
        if _OVERLOADED.search(shown):
            text = f"the server reports an error: {shown}; try again later"
            return replace(_fault("transient", text), overload=True)
        named = f": {shown}" if shown else f" {redact(codes[0], read.key)}" if codes else ""
        text = f"the server reports an error{named}; check judge.base_url and judge.model"
        return _fault("rejected", text)
    code = next((code for code in codes if not code.isdigit()), "")
    parameter = error.get("param") if isinstance(error, dict) else None
    fields |= {"code": code, "param": parameter}
    fault = classify_response(
        status, json.dumps({"error": fields}), {}, read.sent, read.key, read.own
    )
    text = f"the server reports error {status}" + (f": {shown}" if shown else "")
    if fault.kind == "transient":
        text += "; try again later, or look into the server's log"
    return replace(fault, text=text, in_body=True)


def _codes(error: object, depth: int = 0) -> list[str]:
    """The codes in an error: numbers as text, and names such as `rate_limit_exceeded`."""
    if isinstance(error, list) and depth < 3:
        return [code for item in error[:1] for code in _codes(item, depth + 1)]
    if isinstance(error, bool) or not isinstance(error, dict | int | float):
        return []
    if isinstance(error, int | float):
        return [f"{error:g}"]
    codes = [error.get(name) for name in ("code", "status", "status_code", "type")]
    texts = [
        f"{code:g}" if isinstance(code, int | float) else str(code)[:MAX_NAME_CHARS]
        for code in codes
        if code and isinstance(code, int | float | str)
    ]
    inner = _codes(error.get("error"), depth + 1) if depth < 3 else []
    return texts + inner


def _is_flagged(error: object) -> bool:
    """Whether an error says that the text of the request was flagged."""
    metadata = error.get("metadata") if isinstance(error, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("flagged_input"))


# --- values ----------------------------------------------------------------------------------


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _short_name(name: str | None) -> str | None:
    """A server's name for something, on one line; None if it is empty."""
    return printable(name[:MAX_NAME_CHARS], " ") if name else None


def _first_count(usage: Mapping[str, object], *names: str) -> int | None:
    """The first of these token counts that the server reports; None if it reports none."""
    counts = (_token_count(usage.get(name)) for name in names)
    return next((count for count in counts if count is not None), None)


def _token_count(count: object) -> int | None:
    """A count that the server reports; None if it is impossible, so that the call counts as unknown."""
    if isinstance(count, str):
        try:
            count = float(count[:30])
        except ValueError:
            return None
    if isinstance(count, bool) or not isinstance(count, int | float):
        return None
    return int(count) if 0 <= count <= MAX_TOKENS else None  # NaN fails every comparison
