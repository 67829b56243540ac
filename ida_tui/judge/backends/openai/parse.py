"""Strict parser of a judge's reply: scores or a `ParseFailure`, never rounded, clamped or guessed.

A reply may contain JSON objects, or one `axis: number` line per axis. It fails to parse if a score
is missing, duplicated, quoted, NaN or outside 0 to 10, if it is truncated, or if it contains two
different verdicts, because one of them may be quoted from the judged text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ida_tui.util.text import printable

MAX_REPLY_CHARS = 8_000
"""Maximum length of a reply; a longer one fails to parse."""
MAX_REASON_CHARS = 400


@dataclass(frozen=True, slots=True)
class ParsedScores:
    """Scores of the judged axes, 0 to 10, and the judge's reason on one line."""

    scores: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """Why a reply could not be parsed as a verdict.

    `kind` is `form` (not in the form of a verdict), `value` (a score is not valid) or `truncated`.
    """

    kind: Literal["form", "value", "truncated"]
    text: str


def parse_verdict(text: str, axes: Sequence[str]) -> ParsedScores | ParseFailure:
    """Parse one reply with a score for each of the axes. Never raises."""
    text = _strip_think_block(text).strip()
    if not text:
        return ParseFailure("form", "the reply is empty")
    if len(text) > MAX_REPLY_CHARS:
        return ParseFailure("form", f"the reply is longer than {MAX_REPLY_CHARS} characters")
    parsed = [_validate_scores(candidate, axes) for candidate in _verdict_objects(text, axes)]
    if parsed:
        if any(result != parsed[0] for result in parsed[1:]):
            return ParseFailure("form", "the reply contains two different verdicts")
        return parsed[0]
    if _is_truncated(text):
        return ParseFailure("truncated", "the reply is truncated")
    return _parse_lines(text, axes)


def _strip_think_block(text: str) -> str:
    """The reply after a reasoning model's `<think>` block."""
    return re.sub(r"^\s*<think>.*?</think>", "", text, count=1, flags=re.DOTALL)


class _DuplicateKey(ValueError):
    pass


def _reject_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _DuplicateKey
    return result


def _verdict_objects(text: str, axes: Sequence[str]) -> list[Mapping[str, object]]:
    """The outermost JSON objects in a text that have at least one axis as a key."""
    decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)
    objects: list[Mapping[str, object]] = []
    start = text.find("{")
    while start != -1:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict) and any(axis in value for axis in axes):
                objects.append(value)
        start = text.find("{", end)
    return objects


def _validate_scores(
    candidate: Mapping[str, object], axes: Sequence[str]
) -> ParsedScores | ParseFailure:
    values: dict[str, float] = {}
    for axis in axes:
        if axis not in candidate:
            return ParseFailure("form", f"{axis} is missing")
        value = candidate[axis]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ParseFailure("value", f"{axis} is not a number")
        if not 0 <= value <= 10:  # NaN fails every comparison
            return ParseFailure("value", f"{axis} is not between 0 and 10")
        values[axis] = float(value)
    reason = candidate.get("reason")
    return ParsedScores(values, _one_line(reason) if isinstance(reason, str) else "")


def _is_truncated(text: str) -> bool:
    """Whether a brace outside of strings is opened and never closed."""
    start = text.find("{")
    if start == -1:
        return False
    depth, quoted, escaped = 0, False, False
    for char in text[start:]:
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return False
    return True


def _parse_lines(text: str, axes: Sequence[str]) -> ParsedScores | ParseFailure:
    """Parse one `axis: number` line per axis, each exactly once."""
    values: dict[str, object] = {}
    for axis in axes:
        marks = re.findall(rf"(?<!\w){axis}[\"'*`]*\s*[:=]", text, re.IGNORECASE)
        if len(marks) > 1:
            return ParseFailure("form", f"{axis} is given more than once")
        match = re.search(
            rf"(?<!\w){axis}[\"'*`]*\s*[:=]\**[ \t]*(-?\d{{1,3}}(?:\.\d{{1,6}})?)"
            r"(?:[ \t]*/[ \t]*10)?\**(?=[ \t]*(?:[,;|)}\n\r]|$))",
            text,
            re.IGNORECASE,
        )
        if match is None:
            return ParseFailure("form", f"no score for {axis}" if marks else "not a verdict")
        values[axis] = float(match.group(1))
    reason = re.search(r"(?<!\w)reason[\"'*`]*\s*[:=]\s*(.+)", text, re.IGNORECASE)
    values["reason"] = reason.group(1).strip("\"'*`{}, ") if reason else ""
    return _validate_scores(values, axes)


def _one_line(text: str) -> str:
    """The printable characters of a text on one line, because a reason is shown in terminals."""
    line = " ".join(printable(text, " ").split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"
