"""What an error response refuses: parameters, output formats and roles, in the words of many servers.

A server names them in a `param` or a `loc`, or anywhere in a sentence, or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ida_tui.judge.backends.openai.capabilities import (
    JSON_SCHEMA_TYPE,
    SCHEMA_KEYWORDS,
    SYSTEM_ROLE,
    TEMPERATURE_DEFAULT_ONLY,
)

_MAX_CHARS = 4000
_MAX_DEPTH = 8
_PLACE_KEYS = frozenset(
    ("param", "loc", "field", "parameter", "path", "property", "argument", "instancePath")
)
_ECHO_KEYS = frozenset(("input", "ctx", "url", "request", "body", "messages", "received"))
"""Keys under which a server repeats the request, whose words say nothing."""
_ALLOWED = re.compile(
    r"(?<!un)(?<!not )\b(?:supported|allowed|accepted|valid|permitted|expected|known|available)"
    r" (?:parameter|field|argument|option|key)s|\binstead\b|(?<!cannot )(?<!not )\buse ['\"`]|\bdid you mean",
    re.IGNORECASE,
)
"""Where a sentence begins to list what would be right."""
_SYSTEM = re.compile(
    r"\broles?\b|\b(?:system|developer)[_ ](?:message|prompt|instruction|role)s?\b|support system\b"
    r"|\bsystem\b.{0,20}\bnot (?:supported|allowed)|jinja|template ?error|raise_exception|chat[_ ]template\b"
    r"|must alternate|(?:start|begin) with a user",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"additional_?properties|\benums?\b|\bstrict\b|\$(?:ref|defs)\b|\bgrammar\b"
    r"|(?:invalid|unsupported) (?:json )?schema\b|\bschema\b.{0,30}\b(?:invalid|not valid|conversion|compil)",
    re.IGNORECASE,
)
_FORMAT_TYPE = re.compile(
    r"json[_ -]?(?:schema|object)|structured[_ ]outputs?|\bguided|response[_ ]format\W{0,3}(?:of )?type",
    re.IGNORECASE,
)
_FORMAT = re.compile(r"(?:response|output)[_ ](?:format|schema)|json[_ ]mode", re.IGNORECASE)
_TOKENS = re.compile(r"\bmax[_ ](?:\w+[_ ])?tokens\b|\bmaxoutputtokens\b", re.IGNORECASE)
_REASONING = re.compile(r"\breasoning|\bthinking\b", re.IGNORECASE)
_ONLY_DEFAULT = re.compile(r"only the default", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server refuses."""

    features: frozenset[str] = frozenset()
    """Parameters and features of `capabilities`; empty if the server names none."""
    own_field: str = ""
    """The field of `judge.extra_body` that it refuses; empty if it names none."""


def read_refusal(body: str, sent: Collection[str], own: Collection[str] = ()) -> Refusal:
    """What the body of an error response refuses.

    Args:
        body: the text of the response.
        sent: names of the optional parameters of the request.
        own: those that the user added.
    """
    parts = list(_parts(body))
    places = [text for is_place, text in parts if is_place]
    text = "\n".join(text for is_place, text in parts if not is_place)[:_MAX_CHARS]
    if field := next((name for name in own if _names_own_field(name, places, text)), ""):
        return Refusal(own_field=field)
    ours = [name for name in sent if name not in own]
    features = {feature for place in places for feature in _features_of_place(place, text, ours)}
    if not features:
        start = _ALLOWED.search(text)
        features = set(_features_in(text[: start.start()] if start else text, ours))
        features = features or set(_features_in(text, ours))
    if "temperature" in features and _ONLY_DEFAULT.search(text):
        features = (features - {"temperature"}) | {TEMPERATURE_DEFAULT_ONLY}
    return Refusal(frozenset(features))


def _parts(body: str) -> Iterator[tuple[bool, str]]:
    """The texts of an error body, each with whether it is the name of a place in the request."""
    try:
        yield from _texts(json.loads(body), False, _MAX_DEPTH)
    except (ValueError, RecursionError):
        yield False, body


def _texts(value: object, is_place: bool, depth: int) -> Iterator[tuple[bool, str]]:
    if isinstance(value, str):
        yield is_place, value
    elif is_place and isinstance(value, list):
        yield True, ".".join(str(item) for item in value)
    elif depth and isinstance(value, list):
        for item in value:
            yield from _texts(item, False, depth - 1)
    elif depth and isinstance(value, dict):
        for key, item in value.items():
            if key not in _ECHO_KEYS:
                yield from _texts(item, key in _PLACE_KEYS, depth - 1)


def _names_own_field(name: str, places: Collection[str], text: str) -> bool:
    """Whether a field that the user added is named. An ordinary word must stand where a field does."""
    exact = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    if any(re.search(exact, place) for place in places):
        return True
    if not re.search(r"[\W_]", name):
        exact = rf"['\"`]{exact}['\"`]|(?:field|parameter|argument|property|key|input)s?(?: \w+)?:? {exact}"
    return re.search(exact, text) is not None


def _features_of_place(place: str, text: str, sent: Collection[str]) -> Iterator[str]:
    """The features at one place of the request, such as `body.response_format.type`."""
    words = re.findall(r"\w+", place)
    if "role" in words:
        yield SYSTEM_ROLE
    for name in sent:
        if name == "response_format":
            if name in words:
                yield _format_feature(f"{place}\n{text}") or name
        elif name in words:
            yield name


def _features_in(text: str, sent: Collection[str]) -> Iterator[str]:
    """The features that a sentence mentions."""
    if _SYSTEM.search(text):
        yield SYSTEM_ROLE
    if "response_format" in sent and (feature := _format_feature(text)):
        yield feature
    for name in sent:
        alias = None
        if name in ("max_tokens", "max_completion_tokens"):
            alias = _TOKENS
        elif name == "reasoning_effort":
            alias = _REASONING
        exact = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
        if name != "response_format" and (exact or (alias and alias.search(text))):
            yield name


def _format_feature(text: str) -> str:
    """What a text refuses of a response format: keywords of its schema, its type, or all of it."""
    if _SCHEMA.search(text):
        return SCHEMA_KEYWORDS
    if _FORMAT_TYPE.search(text):
        return JSON_SCHEMA_TYPE
    return "response_format" if _FORMAT.search(text) else ""
