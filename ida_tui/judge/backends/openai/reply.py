"""Replies of an OpenAI-compatible server: the body of a chat completion, read as a `ServerReply`."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from ida_tui.judge.errors import RequestFault, redact
from ida_tui.util.text import printable

MAX_TOKENS = 10_000_000
"""Largest token count to believe."""
MAX_NAME_CHARS = 200
"""Longest name of a model and longest fingerprint that are kept; the rest is cut."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A server's response with status 200."""

    text: str
    """The content of the message; empty if there is none."""
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


class _ChatMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _ChatChoice(BaseModel):
    message: _ChatMessage
    finish_reason: str | None = None


class _TokenUsage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _ServerError(BaseModel):
    message: str = ""


class _ChatCompletion(BaseModel):
    choices: list[_ChatChoice] = []
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _TokenUsage | None = None
    error: _ServerError | None = None


def parse_reply(text: str, key: str | None) -> ServerReply | RequestFault:
    """Read the body of a response with status 200; `key` is removed from the text of a fault."""
    try:
        body = _ChatCompletion.model_validate_json(text)
    except ValidationError:
        return RequestFault(
            "rejected",
            "the response is not a chat completion; check that base_url ends in /v1",
        )
    if not body.choices:
        message = body.error.message if body.error else ""
        return RequestFault("transient", redact(message, key) or "the response has no choices")
    choice = body.choices[0]
    usage = body.usage or _TokenUsage()
    return ServerReply(
        text=choice.message.content or "",
        declined=bool(choice.message.refusal) or choice.finish_reason == "content_filter",
        truncated=choice.finish_reason == "length",
        model=_short_name(body.model),
        fingerprint=_short_name(body.system_fingerprint),
        input_tokens=_token_count(usage.prompt_tokens),
        output_tokens=_token_count(usage.completion_tokens),
    )


def _short_name(name: str | None) -> str | None:
    """A server's name for something, on one line; None if it is empty."""
    if not name:
        return None
    return printable(name[:MAX_NAME_CHARS], " ")


def _token_count(count: int | None) -> int | None:
    """A count that the server reports; None if it is impossible, so that the call counts as unknown."""
    return count if count is not None and 0 <= count <= MAX_TOKENS else None
