"""Layout of a chat template's text: what it writes before, between and after the messages.

Jinja templates are programs. Those of ChatML, Llama 3, Gemma, Qwen, Mistral and their relatives write fixed
texts around the messages, which probes find. A layout is used only if it writes further conversations as the
template does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ida_tui.config.conversation import Context
from ida_tui.errors import short_text

Render = Callable[[str, Context], str]
"""Renders the user's text after the earlier messages, up to where the answer starts."""
SYSTEM = "Probe seven of the system."
QUESTIONS = ("Probe one of the user?", "Probe three of the user?", "Probe five of the user?")
ANSWERS = ("Probe two of the assistant.", "Probe four of the assistant.")


@dataclass(frozen=True, slots=True)
class SystemText:
    """Where a system prompt is written."""

    before: str
    after: str
    place: Literal["first", "last"] = "first"
    """The user's message that it precedes."""


@dataclass(frozen=True, slots=True)
class ChatLayout:
    """The fixed texts of a conversation that starts and ends with the user."""

    start: str
    """Before the first message of a conversation without a system prompt; often a default system prompt."""
    after_user: str
    after_assistant: str
    end: str
    """After the last message, up to where the answer starts."""
    system: SystemText

    def render(self, text: str, context: Context = ()) -> str:
        """The conversation as text. The context may start with a system prompt and ends with an answer."""
        system = context[0][1] if context and context[0][0] == "system" else ""
        turns = [content for role, content in context if role != "system"] + [text]
        start = self.start
        if system and self.system.place == "first":
            start = f"{self.system.before}{system}{self.system.after}"
        elif system:
            turns[-1] = f"{self.system.before}{system}{self.system.after}{turns[-1]}"
        gaps = [self.after_assistant if n % 2 else self.after_user for n in range(len(turns) - 1)]
        return start + "".join(map("".join, zip(turns, [*gaps, self.end], strict=True)))

    def without_bos(self, token: str) -> ChatLayout:
        """The layout for a program that writes the first token itself."""
        system = self.system
        if system.place == "first":
            system = replace(system, before=system.before.removeprefix(token))
        return replace(self, start=self.start.removeprefix(token), system=system)


class UnknownLayout(Exception):
    """The chat template does more than to write fixed texts around the messages."""


def find_layout(render: Render) -> ChatLayout:
    """The layout of a chat template.

    Raises:
        UnknownLayout: it has none, with the reason.
    """
    try:
        layout = _probe(render)
        for turns in range(len(QUESTIONS)):
            for system in ("", SYSTEM):
                context = _context(turns, system)
                if layout.render(QUESTIONS[turns], context) != render(QUESTIONS[turns], context):
                    also = " and a system prompt" if system else ""
                    raise UnknownLayout(f"it has rules of its own for {turns + 1} questions{also}")
    except UnknownLayout:
        raise
    except Exception as error:  # a template is a program by the model's authors
        raise UnknownLayout(short_text(error) or type(error).__name__) from None
    return layout


def _probe(render: Render) -> ChatLayout:
    first, second = QUESTIONS[:2]
    start, _ = _split(render(first, ()), first)
    _, after_user, after_assistant, end = _split(
        render(second, _context(1)), first, ANSWERS[0], second
    )
    text = render(second, _context(1, SYSTEM))
    if text.index(SYSTEM) < text.index(first):
        before, after, *_ = _split(text, SYSTEM, first)
        system = SystemText(before, after)
    else:
        *_, gap, after, _ = _split(text, first, ANSWERS[0], SYSTEM, second)
        if not gap.startswith(after_assistant):
            raise UnknownLayout("it writes the system prompt before an earlier question, too")
        system = SystemText(gap.removeprefix(after_assistant), after, "last")
    return ChatLayout(start, after_user, after_assistant, end, system)


def _context(turns: int, system: str = "") -> Context:
    """A context of this many questions with their answers."""
    messages = [("system", system)] if system else []
    for question, answer in zip(QUESTIONS[:turns], ANSWERS[:turns], strict=True):
        messages += [("user", question), ("assistant", answer)]
    return tuple(messages)


def _split(text: str, *probes: str) -> list[str]:
    """The parts of a text around the probes, which must appear once each and in this order."""
    parts = []
    for probe in probes:
        if text.count(probe) != 1:
            raise UnknownLayout("it changes, repeats or moves messages")
        part, text = text.split(probe)
        parts.append(part)
    return [*parts, text]
