"""Conversations in a data set: messages as OpenAI, TRL and ShareGPT write them, split into turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ida_tui.util.text import parse_json, quoted

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""Role in a data set, in lower case → role of a turn."""
_EXAMPLE = '[{"role": "user", "content": "…"}]'


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one row, up to the last message of the user."""

    text: str
    """The last message of the user."""
    system: str | None
    history: list[dict[str, str]]
    """Earlier turns, each with `role` (user or assistant) and `content`."""
    has_reply: bool = False
    """Whether a reply to the last message was left out."""


def read_conversation(value: Any) -> Conversation:
    """The conversation in a cell: a list of messages, or its JSON text.

    Raises:
        ValueError: it is not a list of messages, or has no message of the user.
    """
    turns = _turns(value)
    system = None
    if turns and turns[0]["role"] == "system":
        system = turns.pop(0)["content"] or None
    if any(turn["role"] == "system" for turn in turns):
        raise ValueError("a system message is not the first message")
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    if last < 0:
        raise ValueError("it has no message of the user")
    return Conversation(turns[last]["content"], system, turns[:last], last + 1 < len(turns))


def read_history(value: Any) -> tuple[str | None, list[dict[str, str]]]:
    """The system prompt and the turns before the prompt; an empty cell has none.

    Raises:
        ValueError: it is not a list of messages.
    """
    if value is None or value == "":
        return None, []
    turns = _turns(value)
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
    if any(turn["role"] == "system" for turn in turns):
        raise ValueError("a system message is not the first message")
    return system, turns


def _turns(value: Any) -> list[dict[str, str]]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value)
    if not isinstance(value, list):
        raise ValueError(f"it is not a list of messages, such as {_EXAMPLE}")
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise ValueError(f"a message is not a mapping; write {_EXAMPLE}")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        known = _ROLES.get(str(role).strip().lower())
        if known is None:
            raise ValueError(
                f"a message has the role {quoted(role)}; use system, user and assistant"
            )
        turns.append({"role": known, "content": _content_text(content)})
    return turns


def _content_text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise ValueError("a message has a part that is not text")
        return "\n".join(texts)
    if not isinstance(content, str):
        raise ValueError("a message has no text")
    return content
