"""Thoughts of completions: the text between the tags of a chat template, told apart from the answer.

A completion starts with its thought, whose opening tag may be the end of the prompt. A tag that is only
mentioned in an answer opens no thought.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

TAGS = (
    ("<think>", "</think>"),  # Qwen, DeepSeek, GLM, Nemotron, SmolLM3, MiniMax, ERNIE, Olmo
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE
    ("<reasoning>", "</reasoning>"),  # Reka
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""Opening and closing tag of a thought, as the chat templates of models name them."""
_WITHOUT_OPENING = tuple(
    (opening, closing) for opening, closing in TAGS if "channel" not in opening
)
"""Tags whose closing tag is recognized without its opening tag."""
_OPENING = re.compile("|".join(re.escape(opening) for opening, _ in TAGS))
_CLOSING_OF = dict(TAGS)
_ORPHAN = re.compile("|".join(re.escape(closing) for _, closing in _WITHOUT_OPENING))
_OPENING_OF = {closing: opening for opening, closing in _WITHOUT_OPENING}
# Frames around the answer of models that also frame their thoughts.
_FRAME = re.compile(
    r"<\|start\|>assistant(?=<\|channel\|>)|<\|channel\|>final<\|message\|>|<\|return\|>"
    r"|<\|(?:START|END)_RESPONSE\|>|<\|(?:begin|end)_of_solution\|>"
)
_CODE_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_AFTER_SENTENCE = re.compile(r"(?:^|[\n.!?。！？…:)\]}>])[ \t]*$")


@dataclass(frozen=True, slots=True)
class CompletionParts:
    """The thought and the answer of one completion."""

    thought: str
    """Text of all thoughts, without tags; empty if there are none."""
    answer: str
    """The completion without its thoughts; unchanged if there are none."""
    unfinished: bool = False
    """Whether the completion ends within a thought."""


def split_thought(completion: str) -> CompletionParts:
    """The thought and the answer of a completion; several thoughts are joined by a line break.

    Args:
        completion: the text, with the tag of a thought that the prompt opened, if it is known.
    """
    rest = _FRAME.sub("", completion) if completion.lstrip().startswith("<|") else completion
    thoughts: list[str] = []
    answers: list[str] = []
    while True:
        opening = _find_opening(rest, anywhere=bool(thoughts))
        if opening is not None:
            answers.append(rest[: opening.start()])
            thought, closing, rest = rest[opening.end() :].partition(_CLOSING_OF[opening[0]])
            thoughts.append(thought)
            if not closing:
                break
        elif not thoughts and (orphan := _find_orphan(rest)) is not None:
            thoughts.append(rest[: orphan.start()])
            rest = rest[orphan.end() :]
        else:
            break
    if not thoughts:
        return CompletionParts("", rest)
    unfinished = opening is not None
    answer = "".join(answers if unfinished else [*answers, rest])
    return CompletionParts(
        "\n".join(filter(None, (thought.strip() for thought in thoughts))),
        _FRAME.sub("", answer).strip(),
        unfinished,
    )


def answer_of(completion: str) -> str:
    """A completion without its thoughts."""
    return split_thought(completion).answer


def opened_thought(prompt: str) -> str:
    """The opening tag at the end of a rendered prompt, with the space after it; empty if there is none."""
    stripped = prompt.rstrip()
    opening = next((opening for opening, _ in TAGS if stripped.endswith(opening)), "")
    return opening and prompt[len(stripped) - len(opening) :]


def mentioned_tags(template: str) -> tuple[str, ...]:
    """The opening tags that a chat template contains, also where a program joins them from parts."""
    names = {"<|channel|>analysis<|message|>": "<|channel|>analysis"}
    return tuple(opening for opening, _ in TAGS if names.get(opening, opening) in template)


def marker_tokens(special_tokens: Collection[str]) -> frozenset[str]:
    """The special tokens of a tokenizer that are parts of tags, and must not be dropped from a text."""
    parts = {tag for pair in TAGS for tag in pair if tag != "<|end|>"}
    if "<|channel|>" in special_tokens:
        parts |= {"<|channel|>", "<|message|>", "<|end|>", "<|start|>"}
    if "<|channel>" in special_tokens:
        parts |= {"<|channel>"}
    return frozenset(parts.intersection(special_tokens))


def _find_opening(text: str, *, anywhere: bool) -> re.Match[str] | None:
    """The opening tag at the start of a text; or, if `anywhere`, at the start of a line outside of code."""
    start = len(text) - len(text.lstrip())
    if first := _OPENING.match(text, start):
        return first
    if not anywhere:
        return None
    for match in _OPENING.finditer(text):
        before = text[: match.start()]
        starts_line = not before.rpartition("\n")[2].strip()
        if starts_line and len(_CODE_FENCE.findall(before)) % 2 == 0:
            return match
    return None


def _find_orphan(text: str) -> re.Match[str] | None:
    """The closing tag of a thought that the prompt opened: after a sentence, or at the end of a line."""
    for match in _ORPHAN.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if _OPENING_OF[match[0]] in before or len(_CODE_FENCE.findall(before)) % 2:
            continue
        if (
            _AFTER_SENTENCE.search(before)
            or not after.strip(" \t")
            or after.lstrip(" \t")[0] == "\n"
        ):
            return match
    return None
