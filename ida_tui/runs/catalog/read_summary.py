"""Run summaries for lists, read from only the start and the end of the event file.

Lines are parsed but their fields are not validated, which would take most of the time; a value of the wrong
type is ignored.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, get_args

from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import read_final_state
from ida_tui.util.safe_files import open_regular

HEAD_BYTES = 1024 * 1024
"""Bytes searched for RunStarted, which follows the memory samples taken while the model loads."""
TAIL_BYTES = (16 * 1024, 256 * 1024, 4 * 1024 * 1024, 32 * 1024 * 1024)
"""Bytes searched for the last step, in increasing sizes: a step with many long completions is large."""
_PROGRESS_EVENTS = (b'"StepFinished"', b'"RunEnded"', b'"RunResumed"')
_TYPE_PREFIX_BYTES = 120
"""Bytes at the start of a line that contain the event type."""
EventFields = Mapping[str, Any]


def read_summary(directory: RunDirectory) -> RunSummary:
    """The summary of one run. Never raises."""
    path = directory.path
    try:
        with open_regular(directory.events) as file:
            first, started = _read_first_events(file)
            last = _read_last_event(file)
        if first is None:
            return _unreadable_summary(path, f"{directory.events.name} contains no events")
        return _build_summary(directory, first, started or {}, last or {})
    except OSError as error:
        return _unreadable_summary(path, f"{directory.events.name}: {error.strerror or error}")
    except codec.EventError as error:
        return _unreadable_summary(path, f"{directory.events.name}: {error}")


def _build_summary(
    directory: RunDirectory, first: EventFields, started: EventFields, last: EventFields
) -> RunSummary:
    path = directory.path
    result = RunSummary(
        path=path,
        experiment=_text_field(started, "experiment") or path.parent.name,
        run_id=path.name,
        started_at=_text_field(first, "time"),
        status="died",
        model=_text_field(started, "model"),
        judge=_text_field(started, "judge"),
        steps=_count_field(started, "steps"),
        reward=_text_field(started, "reward") or IDA_REWARD,
    )
    if last.get("type") != "RunEnded":
        from ida_tui.runs import owner

        # A resumed run has finished the steps of its checkpoint.
        steps_done = _count_field(last, "from_step" if last.get("type") == "RunResumed" else "step")
        return result._replace(
            status="live" if owner.is_alive(directory) else "died",
            steps_done=steps_done,
            reward_last=_float_field(last, "reward"),
        )
    status: Any = last.get("status")
    if status not in get_args(ev.RunEndStatus):
        raise codec.EventError(f"unknown status {repr(status)[:40]} of the run")
    return result._replace(
        status=status,
        steps_done=_count_field(last, "steps_done"),
        reward_first=_float_field(last, "reward_first"),
        reward_last=_float_field(last, "reward_last"),
        cost=_float_field(last, "cost"),
        seconds=_trained_seconds(directory, last),
    )


def _trained_seconds(directory: RunDirectory, ended: EventFields) -> float | None:
    """Time of training without pauses, which the duration of an older run includes."""
    if "paused_s" not in ended and _was_paused(directory.events):
        with contextlib.suppress(UsageError):
            return read_final_state(directory).trained_seconds()
    return _float_field(ended, "seconds")


def _was_paused(path: Path) -> bool:
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b'"type": "RunPaused"') >= 0


def _unreadable_summary(path: Path, problem: str) -> RunSummary:
    return RunSummary(path, path.parent.name, path.name, "", "unreadable", problem=problem)


def _read_first_events(file: BinaryIO) -> tuple[EventFields | None, EventFields | None]:
    """The first event, and the RunStarted event."""
    first: EventFields | None = None
    while file.tell() < HEAD_BYTES:
        raw = file.readline(HEAD_BYTES)
        if not raw.endswith(b"\n"):
            break
        if first is None:
            first = _parse_fields(raw)
        if b'"RunStarted"' in raw[:_TYPE_PREFIX_BYTES]:
            return first, _parse_fields(raw)
    return first, None


def _read_last_event(file: BinaryIO) -> EventFields | None:
    """The last event that shows the progress of the run."""
    size = file.seek(0, os.SEEK_END)
    for length in TAIL_BYTES:
        start = max(0, size - length)
        file.seek(start)
        for raw in _lines_backwards(file.read(size - start), first_is_partial=start > 0):
            if any(kind in raw[:_TYPE_PREFIX_BYTES] for kind in _PROGRESS_EVENTS) and (
                body := _parse_fields(raw)
            ):
                return body
        if start == 0:
            return None
    return None


def _lines_backwards(data: bytes, *, first_is_partial: bool) -> Iterator[bytes]:
    """The complete lines of a part of a file, last line first.

    Args:
        data: part of a file.
        first_is_partial: whether the first line may be incomplete.
    """
    lines = data.split(b"\n")
    lines.pop()  # empty, or an incomplete line
    yield from reversed(lines[1:] if first_is_partial else lines)


def _parse_fields(raw: bytes) -> EventFields | None:
    """The fields of an event line; None if the line is not an event.

    Raises:
        NewerVersionError: a newer ida-tui wrote the line.
    """
    try:
        return codec.parse_line(raw.decode("utf-8"))
    except codec.NewerVersionError:
        raise
    except (codec.EventError, UnicodeDecodeError):
        return None


def _text_field(body: EventFields, name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _count_field(body: EventFields, name: str) -> int:
    value = body.get(name)
    return value if type(value) is int and 0 <= value < 2**63 else 0


def _float_field(body: EventFields, name: str) -> float | None:
    value = body.get(name)
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
