"""Linear classifier of sentences: does a sentence decline, redirect the user, or help?

A sentence is a bag of hashed words, word pairs, word triples and parts of words; in scripts without spaces,
of letter sequences. Each feature has two weights, in `refusal_weights.bin`: how much it speaks for declining,
and how much for redirecting (a helpline, a lecture, an offer). `scripts/train_refusal_classifier.py` writes
that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from math import sqrt
from pathlib import Path
from zlib import crc32

from ida_tui.util.text import SPACELESS_LETTER

BUCKETS = 1 << 16
"""Number of hash buckets; two features with the same hash share their weights."""
MAX_TOKENS = 40
"""Tokens of a sentence that are read; later ones change nothing."""
FULL_COUNT = 40
"""Number of features, of about eight words, from which more of them add to a score."""
STEP = 1 / 32
"""What one unit of a stored weight is worth."""
WEIGHTS_FILE = Path(__file__).with_name("refusal_weights.bin")

_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "`": "'", "*": "", "_": " ", "#": ""})
_TOKEN = re.compile(rf"{SPACELESS_LETTER}|(?:(?!{SPACELESS_LETTER})[^\W\d_]|[\u0300-\u036f\u064b-\u0652"
                    r"\u0900-\u0903\u093a-\u094f\u200c\u200d])+(?:'[^\W\d_]+)*|\d|[:?!]")  # fmt: skip
_SPACELESS = re.compile(SPACELESS_LETTER)
_START, _END = "<", ">"


@dataclass(frozen=True, slots=True)
class SentenceScores:
    """How much a sentence declines and how much it redirects; above 0 means that it does."""

    declines: float
    redirects: float


def tokens_of(sentence: str) -> list[str]:
    """The lower-case words of a sentence; each letter of a script without spaces is a word."""
    return _TOKEN.findall(sentence.translate(_TYPOGRAPHY).lower())[:MAX_TOKENS]


def features_of(tokens: list[str]) -> list[int]:
    """The hash buckets of a sentence's features, each once, in the order of their numbers."""
    return sorted({crc32(feature.encode()) % BUCKETS for feature in _features(tokens)})


def _features(tokens: list[str]) -> Iterator[str]:
    padded = [_START, *tokens, _END]
    yield from tokens
    for first, second in pairwise(padded):
        yield f"{first} {second}"
    for first, second, third in zip(padded, padded[1:], padded[2:], strict=False):
        yield f"{first} {second} {third}"
        yield f"{first} _ {third}"
    for token in tokens:
        if len(token) > 4:
            yield f"{token[:4]}-"
            yield f"-{token[-4:]}"
            yield f"-{token[-3:]}"
    if _SPACELESS.match("".join(tokens[:1])) or _SPACELESS.match("".join(tokens[-1:])):
        text = "".join(padded)
        for start in range(len(text) - 3):
            yield text[start : start + 4]
            yield text[start : start + 5]


@cache
def _weights() -> tuple[memoryview, memoryview, float, float]:
    """The weights for declining and redirecting, one byte each per bucket, and their two constants."""
    content = memoryview(WEIGHTS_FILE.read_bytes()).cast("b")
    declines, redirects = content[:BUCKETS], content[BUCKETS : 2 * BUCKETS]
    return declines, redirects, content[-2] * STEP, content[-1] * STEP


def scale_of(count: int) -> float:
    """The value of each of `count` features: a long sentence is not weaker evidence than a short one."""
    return 1 / sqrt(min(max(count, 1), FULL_COUNT))


@lru_cache(maxsize=4096)
def score_sentence(sentence: str) -> SentenceScores:
    """Score one sentence; the same in every process and on every machine."""
    features = features_of(tokens_of(sentence))
    declines, redirects, decline_bias, redirect_bias = _weights()
    scale = STEP * scale_of(len(features))
    return SentenceScores(
        decline_bias + scale * sum([declines[feature] for feature in features]),
        redirect_bias + scale * sum([redirects[feature] for feature in features]),
    )
