"""JSON codec of events: one line of `events.jsonl` per record.

    {"v": 2, "seq": 17, "time": "2026-01-31T01:02:03.004Z", "type": "StepFinished", ...fields}

Newer versions of ida-tui read the lines of older ones. How the format may change:
    a new field       has a default that older lines imply. Older readers ignore the field.
    anything else     (a new type, or a field that is removed or changes its meaning) raises `VERSION` and
                      adds an upgrade from the previous version to `UPGRADES`. Older readers reject such a
                      line and ask for an update of ida-tui, because the unknown part could matter.

An unknown type in a line of a known version is therefore reported as damage.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES, MAX_AXES
from ida_tui.events.types import (
    MAX_NUMBER,
    MAX_ROLLOUT_ROWS,
    CompletionScored,
    EvaluationFinished,
    Event,
    Record,
    RolloutStarted,
    RunStarted,
    StepFinished,
)
from ida_tui.util.text import as_json, parse_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 2
LINE_PREFIX = rb'\{"v": %d, "seq": (\d{1,15}), "time": "([0-9TZ:.+-]*)", "type": "' % VERSION
"""Pattern of the start of a line as `encode` writes it, with the number and the time as groups. A line of
another format or an older version is valid too."""
LINE_START = re.compile(LINE_PREFIX + rb'(\w+)"')
"""Pattern of number, time and type."""


class EventError(ValueError):
    """A line that is not a valid event."""


class NewerVersionError(EventError):
    """A line that was written by a newer version of ida-tui."""


def encode(record: Record) -> str:
    """A record as one line of JSON, without the newline; non-finite numbers become null."""
    name = type(record.event).__name__
    header = {"v": VERSION, "seq": record.seq, "time": record.time, "type": name}
    return as_json(header | event_fields(record.event))


def event_fields(event: Event) -> dict[str, Any]:
    """The fields of an event by name, as values of JSON."""
    names = _field_names(type(event).__name__)
    return dict(zip(names, map(_to_json_value, _getter(names)(event)), strict=True))


def decode(line: str) -> Record:
    """The record in a line of `events.jsonl`.

    Raises:
        EventError: the line is incomplete, is not a JSON object, has an unknown version or type, or contains
            values that no run can emit.
    """
    body = parse_line(line)
    seq, time, name = body.pop("seq"), body.pop("time"), body.pop("type")
    if abs(seq) > MAX_NUMBER or not _is_timestamp(time):
        raise EventError("seq or time is invalid")
    if name not in Record.TYPES:
        raise EventError(f"unknown event type {name[:60]!r}")
    return Record(seq, time, build_event(name, body))


def decode_bytes(line: bytes) -> Record:
    """The record in a line of `events.jsonl`, as bytes: `decode` at half the cost for lines of `encode`.

    Raises:
        EventError: as `decode`; also if the line is not UTF-8.
    """
    head = LINE_START.match(line)
    if head and (name := head[3].decode()) in Record.TYPES:
        try:
            event: Event = _type_adapter(name).validate_json(line)
        except ValueError:
            pass  # half of a surrogate pair, for instance; `decode` accepts it or says what is wrong
        else:
            time = head[2].decode()
            if _is_timestamp(time) and not _find_impossible_value(event):
                return Record(int(head[1]), time, event)
    try:
        return decode(line.decode())
    except UnicodeDecodeError as error:
        raise EventError(str(error)) from None


def build_event_from_json(name: str, fields: bytes) -> Event:
    """As `build_event`, from the fields as JSON.

    Raises:
        EventError: as `build_event`; also if it is not JSON, or a text has half of a surrogate pair.
    """
    try:
        event: Event = _type_adapter(name).validate_json(fields)
    except ValueError as error:
        raise EventError(str(error)) from None
    if problem := _find_impossible_value(event):
        raise EventError(f"{name}.{problem}")
    return event


def build_event(name: str, fields: Mapping[str, Any]) -> Event:
    """An event built from its JSON fields; unknown fields are ignored.

    Args:
        name: one of `Record.TYPES`.
        fields: the fields, as parsed from JSON.

    Raises:
        EventError: a field is missing, has the wrong type, or has a value that no run can emit.
    """
    try:
        event: Event = _type_adapter(name).validate_python(fields)
    except ValueError as invalid:
        # This is pydantic's ValidationError; pydantic is only imported when the first event is read.
        validation_error: Any = invalid
        first = validation_error.errors()[0]
        field_path = ".".join(str(part) for part in first["loc"])
        raise EventError(f"{name}.{field_path}: {first['msg']}") from None
    if problem := _find_impossible_value(event):
        raise EventError(f"{name}.{problem}")
    return event


def _is_timestamp(time: str) -> bool:
    try:
        return datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False


def _find_impossible_value(event: Event) -> str:
    """The first field with a value of the right type that no run can emit, and why; empty if none."""
    numeric = _numeric_fields(type(event).__name__)
    # Most values are plain numbers or None, and a run has many events.
    for position, value in enumerate(_getter(numeric)(event)):
        if value is not None and not (
            -MAX_NUMBER <= value <= MAX_NUMBER
            if type(value) is float or type(value) is int
            else _is_in_range(value)
        ):
            return f"{numeric[position]}: the number is too large"
    if isinstance(event, RolloutStarted):
        prompts = len(event.prompts)
        if not 1 <= event.generations <= MAX_ROLLOUT_ROWS // max(1, prompts):
            return "generations: the number of completions in the rollout is out of range"
        if not len(event.prompt_ids) == len(event.kinds) == prompts:
            return "prompts: the numbers of prompts, ids and kinds differ"
    if isinstance(event, RunStarted) and not (
        1 <= len(event.axes) <= MAX_AXES
        and len({axis.name for axis in event.axes}) == len(event.axes)
    ):
        return f"axes: a run has 1 to {MAX_AXES} axes with different names"
    if isinstance(event, (CompletionScored, StepFinished, EvaluationFinished)):
        if len(event.scores) > MAX_AXES:
            return f"scores: more than {MAX_AXES} axes"
        if event.reward is not None and all(score is None for score in event.scores.values()):
            return "reward: must be null if all scores are null"
    if isinstance(event, EvaluationFinished) and not all(
        share.is_possible for share in event.shares.values()
    ):
        return "shares: the number of answers is impossible"
    return ""


@cache
def _field_names(event_type: str) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(Record.TYPES[event_type]))


@cache
def _numeric_fields(event_type: str) -> tuple[str, ...]:
    """Names of the fields of an event type that contain numbers."""
    fields = dataclasses.fields(Record.TYPES[event_type])
    return tuple(
        f.name
        for f in fields
        if re.search(
            r"\b(?:int|float|Scores|Axis|JudgeWork|JudgeTraffic|DownloadProgress|AnswerShare|EverydayFigures"
            r"|SampledVerdict|GroupVerdicts)\b",
            str(f.type),
        )
    )


@cache
def _getter(names: tuple[str, ...]) -> Callable[[Event], tuple[Any, ...]]:
    """A function that returns the fields of an event with these names."""
    if len(names) < 2:  # `attrgetter` returns a single value by itself
        return lambda event: tuple(getattr(event, name) for name in names)
    return attrgetter(*names)


def _is_in_range(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, int | float):
        return -MAX_NUMBER <= value <= MAX_NUMBER  # false for NaN
    if type(value) is dict:
        return all(map(_is_in_range, value.values()))
    if isinstance(value, tuple):
        return all(map(_is_in_range, value))
    if isinstance(value, Mapping):
        return all(map(_is_in_range, value.values()))
    return True


def parse_line(line: str) -> dict[str, Any]:
    """A line as a JSON object of the current version: `seq`, `time`, `type` and unvalidated fields.

    Raises:
        NewerVersionError: the line was written by a newer version of ida-tui.
        EventError: the line is incomplete, or is not an event of a known version.
    """
    try:
        value = parse_json(line)
    except ValueError as error:
        raise EventError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise EventError("not a JSON object")
    body: dict[str, Any] = value
    version = body.pop("v", None)
    if type(version) is not int or version < 1:
        raise EventError(f"invalid version {repr(version)[:40]}")
    if version > VERSION:
        raise NewerVersionError(
            f"written by a newer ida-tui (event format {str(version)[:20]}; this version reads up"
            f" to {VERSION}): update ida-tui"
        )
    _check_header(body)
    for older_version in range(version, VERSION):
        body = UPGRADES[older_version](body)
    return body


def upgrade_scores(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of version 1 with an axis and a reward each, as `scores` and `reward` of version 2."""
    upgraded = {name: value for name, value in fields.items() if name not in _SCORES_OF_VERSION_1}
    upgraded["scores"] = {axis: fields[axis] for axis in IDA_AXIS_NAMES if axis in fields}
    upgraded["reward"] = fields.get("r_ida")
    return upgraded


def _upgrade_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """A line of version 1, in which every run had the axes align, risk and detail, and the reward R_IDA."""
    if body["type"] in ("CompletionScored", "StepFinished"):
        body = upgrade_scores(body)
    return {_RENAMED_IN_VERSION_2.get(name, name): value for name, value in body.items()}


_SCORES_OF_VERSION_1 = (*IDA_AXIS_NAMES, "r_ida")
_RENAMED_IN_VERSION_2 = {
    "r_ida": "rewards",  # of JudgeProbed
    "offline_r_ida": "offline_reward",
    "r_ida_first": "reward_first",
    "r_ida_last": "reward_last",
}
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _upgrade_version_1}
"""For each older version, a function that converts a line's body (with type, without version) to the next
version."""


def _check_header(body: Mapping[str, Any]) -> None:
    if type(body.get("seq")) is not int or not isinstance(body.get("time"), str):
        raise EventError("seq or time is missing")
    if not isinstance(body.get("type"), str):
        raise EventError("type is missing")


@cache
def _type_adapter(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record.TYPES[name])


def _to_json_value(value: Any) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json_value(item) for item in value]
    return value
