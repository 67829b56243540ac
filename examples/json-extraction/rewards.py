"""Rewards for answers that must be JSON, in the form of TRL's reward functions."""

import json


def valid_json(completions, **columns):
    """1 for an answer that is one JSON object and nothing else, else 0."""
    return [float(isinstance(_parse(chat[-1]["content"]), dict)) for chat in completions]


def fields(completions, answer, **columns):
    """The share of the right fields that the answer has; every extra field costs one of them."""
    scores = []
    for chat, right in zip(completions, map(json.loads, answer), strict=True):
        found = _parse(chat[-1]["content"])
        found = found if isinstance(found, dict) else {}
        hits = sum(found.get(key) == value for key, value in right.items())
        extra = len(found.keys() - right.keys())
        scores.append(max(0.0, hits - extra) / len(right))
    return scores


def _parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return None
