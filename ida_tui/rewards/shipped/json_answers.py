"""Reward functions for answers that must be one JSON object, compared with the column `answer`."""

from __future__ import annotations

import json
from collections.abc import Sequence

_DECODER = json.JSONDecoder()


def valid_json(completions: Sequence[str], **columns: object) -> list[float]:
    """1 for an answer that is one JSON object and nothing else, otherwise 0."""
    return [float(_whole_object(text) is not None) for text in completions]


def fields(completions: Sequence[str], answer: Sequence[str], **columns: object) -> list[float]:
    """The share of the right fields in the first JSON object of an answer; an extra field costs one.

    Text around the object costs nothing here, so that an untrained model, which writes some, has a start.

    Args:
        completions: the answers.
        answer: the right JSON object of each.
    """
    return [
        _share_of_fields(text, json.loads(right))
        for text, right in zip(completions, answer, strict=True)
    ]


def exact(completions: Sequence[str], answer: Sequence[str], **columns: object) -> list[float]:
    """1 for an answer that is the right JSON object and nothing else, otherwise 0.

    Spaces and the order of the fields do not matter.
    """
    return [
        float(_same(_whole_object(text), json.loads(right)))
        for text, right in zip(completions, answer, strict=True)
    ]


def _share_of_fields(text: str, right: dict[str, object]) -> float:
    found = _first_object(text)
    if found is None:
        return 0.0
    hits = sum(key in found and _same(found[key], value) for key, value in right.items())
    extra = len(found.keys() - right.keys())
    return max(0.0, hits - extra) / len(right)


def _whole_object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_object(text: str) -> dict[str, object] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _same(found: object, right: object) -> bool:
    """Equality that tells 1 from true and from 1.0, as their JSON does."""
    return json.dumps(found, sort_keys=True) == json.dumps(right, sort_keys=True)
