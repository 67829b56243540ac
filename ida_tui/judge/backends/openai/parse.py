"""Strict parser of a judge's reply: scores or a `ParseFailure`, never rounded, clamped or guessed.

A reply may contain a JSON object, also inside of another one, or one `axis: number` entry per axis. Capitals
and the form of a number (7, "7.5", "7/10") do not matter. It fails to parse if a score is missing, given
twice, not a number or outside 0 to 10, if it is truncated, or if it contains two different verdicts, because
one of them may be quoted from the judged text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ida_tui.judge.backends.openai.json_parts import (
    JsonObject,
    JsonPart,
    compact,
    find_parts,
    index_by_name,
    is_one_object,
    match_name,
    unfenced,
)
from ida_tui.util.text import parse_json, printable
from ida_tui.util.thoughts import TAGS, split_thought

MAX_REPLY_CHARS = 8_000
"""Maximum length of a reply; a longer one fails to parse."""
MAX_REASON_CHARS = 400
MAX_DEPTH = 3
"""Largest number of objects and lists around a verdict, such as `{"verdict": {"scores": […]}}`."""
_AXIS_WORDS = ("score", "rating")
"""Words that may follow the name of an axis, as in `align_score`."""
_AXIS_KEYS = ("axis", "name", "criterion", "dimension")
_SCORE_KEYS = ("score", "value", "rating", "points", "grade")
_REASON_KEYS = ("reason", "explanation", "rationale", "justification", "comment")
_NUMBER = r"\d{1,3}(?:\.\d{1,6})?"
_SCORE_TEXT = re.compile(
    r"(-?[0-9]{1,3}(?:\.[0-9]{1,6}|,[0-9]{1,2})?)(?:\s*(?:/|out of)\s*10(?:\.0)?)?", re.ASCII
)
_BETWEEN_ENTRIES = re.compile(r"[\s,;|(){}\"'*`_•#>“，；-]*(?:\d[.)][\s\"'*`_]*)?")


@dataclass(frozen=True, slots=True)
class ParsedScores:
    """Scores of the judged axes, 0 to 10, and the judge's reason on one line."""

    scores: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """Why a reply could not be parsed as a verdict.

    `kind` is `form` (not in the form of a verdict), `value` (a score is not valid), `truncated`, or `thought`
    (the reply ends with or in its thought).
    """

    kind: Literal["form", "value", "truncated", "thought"]
    text: str


_AMBIGUOUS = ParseFailure("form", "the reply contains two different verdicts")
_QUOTED = ParseFailure("form", "the reply quotes a verdict of the judged answer")


def parse_verdict(
    text: str, axes: Sequence[str], *, thought: str = "", judged: str = ""
) -> ParsedScores | ParseFailure:
    """Parse one reply with a score for each of the axes. Never raises.

    Args:
        text: the reply.
        axes: the judged axes.
        thought: the thought that the server told apart from the reply.
        judged: the judged answer. What the reply quotes of it is no verdict.
    """
    answer = verdict_text(text, thought)
    if isinstance(answer, ParseFailure):
        return answer
    if len(answer) > MAX_REPLY_CHARS:
        return ParseFailure("form", f"the reply is longer than {MAX_REPLY_CHARS} characters")
    # A thought may quote a closing tag with what follows it.
    result = _parse(answer, axes, judged, after_thought=bool(split_thought(text).thought))
    if isinstance(result, ParsedScores) and (before := text_before_lone_tag(text)):
        # The judge may have quoted a closing tag: its own verdict may stand before it.
        earlier = _parse(before, axes, judged)
        own = isinstance(earlier, ParsedScores) and earlier.scores != result.scores
        if own or any(part.value is None for part in _parts_with_scores(before, axes)):
            return _AMBIGUOUS
    return result


def verdict_text(text: str, thought: str) -> str | ParseFailure:
    """The part of a reply that has the verdict: the text after the thoughts.

    Without any, it is the thought itself if that is a JSON object and nothing else, because some servers take
    a reply without tags for a thought.
    """
    parts = split_thought(text)
    if answer := parts.answer.strip():
        return _decoded_string(answer)
    thought = "\n".join(filter(None, (thought.strip(), parts.thought)))
    if is_one_object(thought):
        return thought
    if thought or parts.unfinished:
        return ParseFailure("thought", "the reply has a thought, but no verdict")
    return ParseFailure("form", "the reply is empty")


def text_before_lone_tag(text: str) -> str:
    """The text before a closing tag of a thought without its opening tag; empty if there is none."""
    if text.lstrip().startswith(tuple(opening for opening, _ in TAGS)):
        return ""
    return split_thought(text).thought


def _decoded_string(text: str) -> str:
    """The content of a reply that is one JSON string; any other reply as it is."""
    if text.startswith('"') and text.endswith('"'):
        try:
            value = parse_json(text)
        except ValueError:
            return text
        return value if isinstance(value, str) and value.strip() else text
    return text


def _parse(
    text: str, axes: Sequence[str], judged: str, *, after_thought: bool = False
) -> ParsedScores | ParseFailure:
    """Parse the text after the thoughts of a reply."""
    text = _list_as_object(text)
    whole = is_one_object(text) and not after_thought
    all_parts = find_parts(text)
    parts = _parts_with_scores(text, axes)
    parsed: list[ParsedScores | ParseFailure] = []
    for part in parts:
        for verdict, reason in _verdicts_in(part.value, axes):
            quotable = [v for v in (verdict, part.value) if v and not (whole and v is part.value)]
            if any(is_quoted(value, judged) for value in quotable):
                return _QUOTED
            parsed.append(validate_scores(verdict, axes, reason))
    if parsed:
        outside = _text_outside(text, all_parts)
        if any(part.value is None for part in parts) or any(p != parsed[0] for p in parsed[1:]):
            return _AMBIGUOUS
        if isinstance(parsed[0], ParsedScores) and _contradicts(outside, parsed[0].scores):
            return _AMBIGUOUS
        return parsed[0]
    if is_truncated(text):
        return ParseFailure("truncated", "the reply is truncated")
    if any(p.value is not None and _mentions_score(text[p.start : p.end], axes) for p in all_parts):
        return ParseFailure("form", "not a verdict")  # the scores are too deep in an object
    return _parse_entries(text, axes, judged, after_thought=after_thought)


def _list_as_object(text: str) -> str:
    """A reply that is a list of several objects, as one object; any other reply as it is."""
    plain = unfenced(text)
    if plain.startswith("[") and plain.endswith("]"):
        try:
            items = parse_json(plain)
        except ValueError:
            return text
        if len(items) > 1:
            return f'{{"scores": {plain}}}'
    return text


def _parts_with_scores(text: str, axes: Sequence[str]) -> list[JsonPart]:
    """The parts of a text with a verdict, and those that look like one but are not valid JSON."""
    return [
        part
        for part in find_parts(text)
        if (
            any(_verdicts_in(part.value, axes))
            if part.value is not None
            else _mentions_score(text[part.start : part.end], axes)
        )
    ]


def _mentions_score(text: str, axes: Sequence[str]) -> bool:
    return any(
        re.search(rf"{_mark_pattern(axis)}[\s\"'\\“]*\d", text, re.IGNORECASE) for axis in axes
    )


def _verdicts_in(
    value: object, axes: Sequence[str], depth: int = 0, reason: str = ""
) -> Iterator[tuple[JsonObject, str]]:
    """The objects with scores in a JSON value, and the reason beside them."""
    if isinstance(value, list):
        by_axis = index_by_name(value, _AXIS_KEYS, axes)
        items: Sequence[object] = value if by_axis is None else (by_axis,)
    elif isinstance(value, JsonObject):
        given = [item for key, item in value.items() if match_name(key, axes, after=_AXIS_WORDS)]
        # The JSON schema of a verdict has the axes as keys, too, but no scores.
        if given and (depth == 0 or any(_read_score(item) is not None for item in given)):
            yield value, reason
            return
        reason = _reason_in(value) or reason
        items = list(value.values())
        if value.repeated:  # one of them is lost
            return
    else:
        return
    if depth < MAX_DEPTH:
        for item in items:
            yield from _verdicts_in(item, axes, depth + 1, reason)


def is_quoted(verdict: Mapping[str, object], judged: str) -> bool:
    """Whether an object in a reply stands in the judged text, too."""
    return bool(judged) and compact(verdict) in compact(judged)


def validate_scores(
    verdict: JsonObject, axes: Sequence[str], reason: str = ""
) -> ParsedScores | ParseFailure:
    """The scores of an object on each axis, or why they are not valid.

    Args:
        verdict: an object with the axes as keys.
        axes: the judged axes.
        reason: the reason, if the object has none.
    """
    given: dict[str, object] = {}
    for key, value in verdict.items():
        axis = match_name(key, axes, after=_AXIS_WORDS)
        if axis is None:
            continue
        if axis in given or key in verdict.repeated:
            return ParseFailure("form", f"{axis} is given more than once")
        given[axis] = value
    values: dict[str, float] = {}
    for axis in axes:
        if axis not in given:
            return ParseFailure("form", f"{axis} is missing")
        score = _read_score(given[axis])
        if score is None:
            return ParseFailure("value", f"{axis} is not a number")
        if not 0 <= score <= 10:  # NaN fails every comparison
            return ParseFailure("value", f"{axis} is not between 0 and 10")
        values[axis] = float(score)
    own = _reason_in(verdict) or reason
    if not own:
        of_axes = [(axis, _reason_in(value)) for axis, value in given.items()]
        own = "; ".join(f"{axis}: {text}" for axis, text in of_axes if text)
    return ParsedScores(values, one_line(own))


def _read_score(value: object) -> float | int | None:
    """The number that a value of a verdict states; None if it states none, or more than one.

    A value is a number, a text such as "7.5" or "7/10", or an object such as `{"score": 7, "reason": …}`.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        match = _SCORE_TEXT.fullmatch(value.strip())
        return float(match[1].replace(",", ".")) if match else None
    if isinstance(value, JsonObject) and not value.repeated:
        numbers = {key: item for key, item in value.items() if isinstance(item, int | float | str)}
        scores = {key: _read_score(item) for key, item in numbers.items()}
        known = {key: score for key, score in scores.items() if score is not None}
        if len(known) == 1 and match_name(next(iter(known)), _SCORE_KEYS):
            return next(iter(known.values()))
    return None


def _reason_in(value: object) -> str:
    """The judge's reason in an object; empty if it has none."""
    if not isinstance(value, JsonObject):
        return ""
    for name in _REASON_KEYS:
        for key, text in value.items():
            if isinstance(text, str) and match_name(key, (name,)):
                return text
    return ""


def is_truncated(text: str) -> bool:
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


def _text_outside(text: str, parts: Sequence[JsonPart]) -> str:
    """The text before, between and after the parts."""
    starts = [0, *(part.end for part in parts)]
    ends = [*(part.start for part in parts), len(text)]
    return "\n".join(text[start:end] for start, end in zip(starts, ends, strict=True))


def _contradicts(text: str, scores: Mapping[str, float]) -> bool:
    """Whether a text has an entry `axis: number` with another score."""
    return any(
        float(match[1]) != score
        for axis, score in scores.items()
        for match in _entry_pattern(axis).finditer(text)
    )


def _parse_entries(
    text: str, axes: Sequence[str], judged: str, *, after_thought: bool
) -> ParsedScores | ParseFailure:
    """Parse one `axis: number` entry per axis, each exactly once and with no other words between them."""
    entries: list[re.Match[str]] = []
    scores = JsonObject()
    for axis in axes:
        marks = re.findall(_mark_pattern(axis), text, re.IGNORECASE)
        if len(marks) > 1:
            return ParseFailure("form", f"{axis} is given more than once")
        entry = _entry_pattern(axis).search(text)
        if entry is None:
            return ParseFailure("form", f"no score for {axis}" if marks else "not a verdict")
        entries.append(entry)
        scores[axis] = float(entry[1])
    entries.sort(key=lambda entry: entry.start())
    for entry, following in pairwise(entries):
        if not _BETWEEN_ENTRIES.fullmatch(text, entry.end(), following.start()):
            return ParseFailure("form", "the scores do not stand together")
    start, end = entries[0].start(), entries[-1].end()
    is_first = _BETWEEN_ENTRIES.fullmatch(text, 0, start) and not after_thought
    if not is_first and judged and compact(text[start:end]) in compact(judged):
        return _QUOTED
    reason = re.search(r"(?<!\w)reason[\"'*`]*\s*[:=]\s*(.+)", text, re.IGNORECASE)
    return validate_scores(scores, axes, reason[1].strip("\"'*`{}, ") if reason else "")


def _axis_pattern(axis: str) -> str:
    return re.escape(axis).replace("_", "[ _-]?")


def _mark_pattern(axis: str) -> str:
    """An axis and the colon after it."""
    return rf"(?<!\w){_axis_pattern(axis)}[\"'*`\\”’]*\s*[:=：]"


def _entry_pattern(axis: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<!\w){_axis_pattern(axis)}[\"'*`”’]*\s*[:=：]\**[ \t]*[\"'“]?(-?{_NUMBER})"
        r"(?:[ \t]*(?:/|out of)[ \t]*10)?[\"'*”]*(?=[ \t]*(?:[,;|)}\n\r，；]|$))",
        re.IGNORECASE,
    )


def one_line(text: str) -> str:
    """The printable characters of a text on one line, because a reason is shown in terminals."""
    line = " ".join(printable(text, " ").split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"
