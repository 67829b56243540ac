"""Conversations: the chat messages of a prompt, and of everything else that a model answers.

Training, evaluation, chat and exports build their messages only here, so that a model always sees the same
conversation.
"""

from __future__ import annotations

from collections.abc import Iterable

from ida_tui.config.prompts import PromptRows
from ida_tui.config.schema import Prompt

ChatMessage = dict[str, str]
"""A chat message with the keys `role` and `content`, as chat templates take it."""
Context = tuple[tuple[str, str], ...]
"""The messages before the user's last one: role and content of each, the system prompt first."""


def prompt_context(prompt: Prompt, default_system: str | None) -> Context:
    """The messages before a prompt's text.

    Args:
        prompt: the prompt.
        default_system: the system prompt for a prompt without one of its own.
    """
    system = default_system if prompt.system is None else prompt.system
    return (
        *system_context(system),
        *((message.role, message.content) for message in prompt.history),
    )


def system_context(system: str | None) -> Context:
    """The context that consists of a system prompt; empty without one."""
    return (("system", system),) if system and system.strip() else ()


def chat_messages(
    text: str, context: Iterable[tuple[str, str]] = (), *, merge_system: bool = False
) -> list[ChatMessage]:
    """The messages of a conversation that ends with the user's text.

    Args:
        text: the user's last message.
        context: the messages before it.
        merge_system: put system messages in front of the next user message, for a chat template without a
            system role.
    """
    messages: list[ChatMessage] = []
    instructions: list[str] = []
    for role, content in (*context, ("user", text)):
        if role == "system" and merge_system:
            instructions.append(content)
            continue
        if role == "user" and instructions:
            content = "\n\n".join([*instructions, content])
            instructions = []
        messages.append({"role": role, "content": content})
    return messages


def longest_prompt_characters(prompts: Iterable[Prompt], default_system: str | None) -> int:
    """Characters of the longest of these prompts, with its context; 0 without prompts."""
    if isinstance(prompts, PromptRows):
        return prompts.longest_characters(default_system or "")
    return max(
        (
            len(prompt.text)
            + sum(len(content) for _, content in prompt_context(prompt, default_system))
            for prompt in prompts
        ),
        default=0,
    )


def context_lines(context: Context) -> list[str]:
    """A context as text: one paragraph per message, with its role."""
    return [f"{role}: {content}" for role, content in context]
