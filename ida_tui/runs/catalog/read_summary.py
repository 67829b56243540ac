"""What a list of runs shows of each: read from the ends of its files, not from all of it.

Lines are parsed but not validated field by field, which would cost more than all the rest; a value of a wrong
type is left out.
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
"""RunStarted is looked for in so many bytes: while a large model is loaded, memory is sampled before it."""
TAIL = (16 * 1024, 256 * 1024, 4 * 1024 * 1024, 32 * 1024 * 1024)
"""The last step is looked for in so many bytes, then in more: a step of many long completions is long."""
_LAST = (b'"StepFinished"', b'"RunEnded"', b'"RunResumed"')
_KIND = 120
"""The type of a line stands in so many bytes of it."""
Body = Mapping[str, Any]


def summaries(output_dir: Path) -> list[RunSummary]:
    """Every run below a folder, newest first. A run that cannot be read is in the list, and says why."""
    from ida_tui.runs.catalog.index import order, stamps

    found = [summary(RunDirectory(output_dir / name)) for name, _ in stamps(output_dir)]
    return sorted(found, key=lambda run: order(run.started_at, run.run_id), reverse=True)


def summary(directory: RunDirectory) -> RunSummary:
    """One run. Never raises."""
    path = directory.path
    try:
        with open(directory.events, "rb") as file:
            first, started = _head(file)
            last = _tail(file)
        if first is None:
            return _unreadable(path, f"{directory.events.name} holds no event")
        return _summary(directory, first, started or {}, last or {})
    except OSError as error:
        return _unreadable(path, f"{directory.events.name}: {error.strerror or error}")
    except ev.EventError as error:
        return _unreadable(path, f"{directory.events.name}: {error}")


def _summary(directory: RunDirectory, first: Body, started: Body, last: Body) -> RunSummary:
    path = directory.path
    seen = RunSummary(
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

        # A run that went on has finished the steps that its checkpoint holds.
        done = _count(last, "from_step" if last.get("type") == "RunResumed" else "step")
        return seen._replace(
            status="live" if owner.alive(directory) else "died",
            steps_done=done,
            r_ida_last=_figure(last, "r_ida"),
        )
    status: Any = last.get("status")
    if status not in get_args(ev.Status):
        raise ev.EventError(f"it ended as {repr(status)[:40]}, which is not known here")
    return seen._replace(
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
    """The first event, and the one that says what is trained."""
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
    """The last event that says how far the run is."""
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
    """The whole lines of a piece of a file, the last one first."""
    lines = text.split(b"\n")
    lines.pop()  # torn, or nothing
    yield from reversed(lines[1:] if cut else lines)


def _parsed(raw: bytes) -> Body | None:
    """What a line says; None where it is no event.

    Raises:
        NewerError: a newer ida-tui wrote it.
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
