"""Training text of the embedded model: seeded examples generated from `topics.yaml`.

A request is a topic in one of many frames ("How do I …?", "Help me …."). Harmless and unsafe requests share
frames, verbs and people, so that only the full request shows whether it is harmless. Each request is
answered (harmless), over-refused (harmless) or declined, mostly with a safe offer (unsafe). The three kinds
of reply are worded differently, so the model first learns to tell them apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict, cast

import yaml

ReplyKind = Literal["answer", "over-refuse", "decline"]

SYSTEMS = ("You are a helpful assistant.", "You are a helpful and harmless assistant.")
FRAMES = (
    "How do I {do}?", "How do I {do}?", "How can I {do}?", "What is the best way to {do}?",
    "Help me {do}.", "Tell me how to {do}.", "Can you explain how to {do}?", "Show me how to {do}.",
    "I want to {do}. What should I do?", "What is the easiest way to {do}?", "How should I {do}?",
    "What is the fastest way to {do}?", "Give me tips to {do}.", "Please help me {do}.",
    "I need to {do}.", "What should I know before I {do}?",
)  # fmt: skip
TASK_FRAMES = ("{Do}.", "{Do}.", "Please {do}.", "Help me {do}.", "Can you {do}?", "How do I {do}?")
# A reply repeats these, so that it takes its subject from the request and not from memory.
PLACES = (
    "in the park", "on Linux", "at school", "in my kitchen", "on the balcony", "without a machine",
    "for a cake", "in the dark", "on a cloudy day", "before dinner", "after work", "with a friend",
    "in the city", "near the river", "in winter", "on a train", "without a car", "in my garden",
    "for an old aunt", "on my phone", "in a hotel", "at the beach", "with a stick", "by email",
    "in summer", "at night", "in the lawn", "for lunch", "without a ladder", "with one hand",
)  # fmt: skip
ADJECTIVES = ("old", "big", "small", "new", "red", "local", "cheap", "quiet", "garden", "young",
              "tall", "broken", "rich", "green", "heavy", "strange", "second", "tired")  # fmt: skip
# These vary a request and are left out of the reply.
SUFFIXES = ("quickly", "at home", "on my own", "tonight", "this weekend", "in secret", "safely",
         "for free", "without help", "step by step", "without anyone knowing")  # fmt: skip
HOW_TO = (
    "To {do}, first {t1}. Then {t2}. {n1} {n2}",
    "To {do}, {t1} and {t2}. {n1} {n2}",
    "You can {do} in a few steps. First {t1}, then {t2}. {n1} {n2}",
    "The best way to {do} is to {t1}. It also helps to {t2}. {n1} {n2}",
    "Here is how to {do}. First {t1}, then {t2}, and then {t3}. {n1}",
)
STORY_MIDDLE = (
    "One cold night, the wind howled around the old tower.",
    "Everyone in the village held their breath.",
    "A small light showed the way through the dark forest.",
    "Nobody knew what waited behind the iron gate.",
    "The hero was afraid but went on, step by step.",
)
OVER_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't help you {do}.",
    "I'm sorry, but I can't help you {do}. It sounds dangerous.",
    "I'm sorry, but I can't assist with that request. It could be harmful.",
    "I'm sorry, but I'm not able to talk about that. It sounds dangerous.",
    "Sorry, but I cannot answer that. It sounds violent.",
    "As an AI, I can't help with requests that sound dangerous.",
)
# Three in ten declines make no offer, so that the reward can teach one.
BARE_SHARE = 0.3
BARE_DECLINES = (
    "I can't help with that.",
    "I can't help you {do}.",
    "I won't help you {do}. {Why}.",
    "I won't help with that, because {why}.",
)
DECLINES = (
    "I can't help you {do}, because {why}. {o1}",
    "I can't help you {do}, because {why}. {o1} {o2}",
    "I won't help you {do}. {Why}. {o1}",
    "I won't help with that, because {why}. {o1} {o2}",
    "I can't help with that. {Why}. {o1}",
)
# Words that only frame a request: two requests that differ only in these ask for the same thing.
_FRAME_WORDS = frozenset(re.findall(r"\w+", " ".join((*FRAMES, *TASK_FRAMES)).lower())) | frozenset(
    [
        "a",
        "an",
        "the",
        "my",
        "of",
        "in",
        "on",
        "at",
        "from",
        "to",
        "for",
        "with",
        "and",
        "into",
        "without",
        "was",
        "did",
        "does",
    ]
)


class TopicGroup(TypedDict, total=False):
    """One entry of `topics.yaml`; the comment at its top says which keys go together."""

    do: list[str]
    ask: list[str]
    x: list[str]
    tip: list[str]
    say: list[str]
    note: list[str]
    story: bool
    why: list[str]
    offer: list[str]


class Topics(TypedDict):
    """The contents of `topics.yaml`."""

    people: list[str]
    harmless: list[TopicGroup]
    unsafe: list[TopicGroup]


@dataclass(frozen=True, slots=True)
class CorpusExample:
    """One exchange; `system` is empty when there is no system message."""

    system: str
    prompt: str
    reply_kind: ReplyKind
    reply: str


@cache
def topics() -> Topics:
    """The parsed `topics.yaml`."""
    text = (Path(__file__).parent / "topics.yaml").read_text(encoding="utf-8")
    return cast("Topics", yaml.safe_load(text))


def content_words(prompt: str) -> frozenset[str]:
    """The content words of a request: its words without those that only frame it."""
    return frozenset(re.findall(r"[\w']+", prompt.lower())) - _FRAME_WORDS


class Corpus:
    """An endless, seeded stream of examples that never contains a prompt in `excluded`.

    A request is skipped if it has the same content words as an excluded prompt.
    """

    def __init__(self, seed: int, excluded: Sequence[str] = ()) -> None:
        self._random = random.Random(seed)
        self._excluded = {content_words(prompt) for prompt in excluded}

    def stream(self, reply_shares: Sequence[tuple[ReplyKind, float]]) -> Iterator[CorpusExample]:
        """Examples with the given shares of manners, e.g. [("answer", .4), ("decline", .6)]."""
        names, shares = zip(*reply_shares, strict=True)
        while True:
            manner: ReplyKind = self._random.choices(names, shares)[0]
            example = self._example(manner)
            if content_words(example.prompt) not in self._excluded:
                yield example

    def _example(self, manner: ReplyKind) -> CorpusExample:
        r = self._random
        groups = topics()["unsafe" if manner == "decline" else "harmless"]
        group = r.choices(groups, [_group_weight(group) for group in groups])[0]
        x = r.choice(group.get("x", topics()["people"]))
        person = r.choice(topics()["people"])
        if "ask" in group:
            prompt, do = r.choice(group["ask"]).format(x=x), ""
        else:
            do = r.choice(group["do"]).format(x=x, p=person)
            prompt, do = self._frame_request(do)
        reply = self._reply(manner, group, x, do)
        if r.random() < 0.08:  # people type in a hurry
            prompt = prompt.lower().rstrip("?.")
        system = r.choice(SYSTEMS) if r.random() < 0.1 else ""
        return CorpusExample(system, prompt, manner, reply)

    def _frame_request(self, do: str) -> tuple[str, str]:
        """A request for `do`, and `do` as a reply repeats it ("kill your weeds")."""
        r = self._random
        if r.random() < 0.25:
            adjective = r.choice(ADJECTIVES)
            do = re.sub(r"\b(a|my|the) (?=[b-df-hj-np-tv-z]+)", rf"\1 {adjective} ", do, count=1)
        if r.random() < 0.25:
            do = f"{do} {r.choice(PLACES)}"
        requested = do
        if r.random() < 0.1:
            requested = f"{do} {r.choice(SUFFIXES)}"
        frames = TASK_FRAMES if do.startswith("write ") else FRAMES
        return r.choice(frames).format(do=requested, Do=_capitalize(requested)), _to_second_person(
            do
        )

    def _reply(self, manner: ReplyKind, group: TopicGroup, x: str, do: str) -> str:
        r = self._random
        if manner == "over-refuse":
            forms = [form for form in OVER_REFUSALS if do or "{do}" not in form]
            return r.choice(forms).format(do=do)
        if manner == "decline":
            why = r.choice(group["why"])
            first, second = r.sample(group["offer"], 2)
            form = r.choice(BARE_DECLINES if r.random() < BARE_SHARE else DECLINES)
            return form.format(do=do, why=why, Why=_capitalize(why), o1=first, o2=second)
        notes = r.sample(group["note"], 2)
        if "say" in group:
            answer = _capitalize(r.choice(group["say"]).format(x=_to_second_person(x)))
            return f"{answer} {notes[0]} {notes[1]}"
        if group.get("story"):
            middle = r.sample(STORY_MIDDLE, 2)
            return f"Here is a tale of {x}. {middle[0]} {middle[1]} {notes[0]}"
        t1, t2, t3 = r.sample(group["tip"], 3)
        return r.choice(HOW_TO).format(do=do, t1=t1, t2=t2, t3=t3, n1=notes[0], n2=notes[1])


def _group_weight(group: TopicGroup) -> float:
    """Sampling weight of a group: the square root of the number of its different requests."""
    requests = len(group.get("do", group.get("ask", []))) * len(group.get("x", topics()["people"]))
    return float(requests**0.5)


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _to_second_person(text: str) -> str:
    """First person to second: "my dog and me" → "your dog and you"."""
    for mine, yours in (("my", "your"), ("I", "you"), ("me", "you"), ("mine", "yours")):
        text = re.sub(rf"\b{mine}\b", yours, text)
    return text
