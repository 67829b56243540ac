"""Reading of run summaries for lists, from the start and the end of the event file only.

Lines are parsed but their fields are not validated, which would take most of the time; a value of the wrong
type is ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, get_args

from ida_tui.events import types as ev
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.runs.directory import RunDirectory

HEAD = 1024 * 1024
"""Bytes searched for RunStarted, which follows the memory samples taken while the model loads."""
TAIL = (16 * 1024, 256 * 1024, 4 * 1024 * 1024, 32 * 1024 * 1024)
"""Bytes searched for the last step, in increasing sizes: a step with many long completions is large."""
_LAST = (b'"StepFinished"', b'"RunEnded"', b'"RunResumed"')
_KIND = 120
"""Bytes at the start of a line that contain the event type."""
Body = Mapping[str, Any]


def summaries(output_dir: Path) -> list[RunSummary]:
    """All runs in an output directory, newest first; unreadable runs are included with their problem."""
    from ida_tui.runs.catalog.index import order, stamps

    runs = [summary(RunDirectory(output_dir / name)) for name, _ in stamps(output_dir)]
    return sorted(runs, key=lambda run: order(run.started_at, run.run_id), reverse=True)


def summary(directory: RunDirectory) -> RunSummary:
    """The summary of one run. Never raises."""
    path = directory.path
    try:
        with open(directory.events, "rb") as file:
            first, started = _head(file)
            last = _tail(file)
        if first is None:
            return _unreadable(path, f"{directory.events.name} contains no events")
        return _summary(directory, first, started or {}, last or {})
    except OSError as error:
        return _unreadable(path, f"{directory.events.name}: {error.strerror or error}")
    except ev.EventError as error:
        return _unreadable(path, f"{directory.events.name}: {error}")


def _summary(directory: RunDirectory, first: Body, started: Body, last: Body) -> RunSummary:
    path = directory.path
    result = RunSummary(
        path=path,
        experiment=_text(started, "experiment") or path.parent.name,
        run_id=path.name,
        started_at=_text(first, "time"),
        status="died",
        model=_text(started, "model"),
        judge=_text(started, "judge"),
        steps=_count(started, "steps"),
    )
    if last.get("type") != "RunEnded":
        from ida_tui.runs import owner

        # A resumed run has finished the steps of its checkpoint.
        steps_done = _count(last, "from_step" if last.get("type") == "RunResumed" else "step")
        return result._replace(
            status="live" if owner.alive(directory) else "died",
            steps_done=steps_done,
            r_ida_last=_figure(last, "r_ida"),
        )
    status: Any = last.get("status")
    if status not in get_args(ev.Status):
        raise ev.EventError(f"unknown status {repr(status)[:40]} of the run")
    return result._replace(
        status=status,
        steps_done=_count(last, "steps_done"),
        r_ida_first=_figure(last, "r_ida_first"),
        r_ida_last=_figure(last, "r_ida_last"),
        cost=_figure(last, "cost"),
        seconds=_figure(last, "seconds"),
    )


def _unreadable(path: Path, problem: str) -> RunSummary:
    return RunSummary(path, path.parent.name, path.name, "", "unreadable", problem=problem)


def _head(file: BinaryIO) -> tuple[Body | None, Body | None]:
    """The first event, and the RunStarted event."""
    first: Body | None = None
    while file.tell() < HEAD:
        raw = file.readline(HEAD)
        if not raw.endswith(b"\n"):
            break
        if first is None:
            first = _parsed(raw)
        if b'"RunStarted"' in raw[:_KIND]:
            return first, _parsed(raw)
    return first, None


def _tail(file: BinaryIO) -> Body | None:
    """The last event that shows the progress of the run."""
    size = file.seek(0, os.SEEK_END)
    for length in TAIL:
        start = max(0, size - length)
        file.seek(start)
        for raw in _backwards(file.read(size - start), cut=start > 0):
            if any(kind in raw[:_KIND] for kind in _LAST) and (body := _parsed(raw)):
                return body
        if start == 0:
            return None
    return None


def _backwards(text: bytes, *, cut: bool) -> Iterator[bytes]:
    """The complete lines of a part of a file, last line first.

    Args:
        text: part of a file.
        cut: whether the first line may be incomplete.
    """
    lines = text.split(b"\n")
    lines.pop()  # empty, or an incomplete line
    yield from reversed(lines[1:] if cut else lines)


def _parsed(raw: bytes) -> Body | None:
    """The fields of an event line; None if the line is not an event.

    Raises:
        NewerError: a newer ida-tui wrote the line.
    """
    try:
        return ev.parsed(raw.decode("utf-8"))
    except ev.NewerError:
        raise
    except (ev.EventError, UnicodeDecodeError):
        return None


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _count(body: Body, name: str) -> int:
    value = body.get(name)
    return value if type(value) is int and 0 <= value < 2**63 else 0


def _figure(body: Body, name: str) -> float | None:
    value = body.get(name)
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
