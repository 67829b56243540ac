"""What a list of runs shows of each: read from the ends of its files, not from all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ida_tui import events as ev
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory

RunStatus = Literal[
    "live",
    "died",
    "done",
    "failed",
    "interrupted",
    "judge_unavailable",
    "out_of_memory",
    "unreadable",
]
EDGE = 256 * 1024
"""Bytes that are read at the head and at the tail of an ``events.jsonl``."""
E = TypeVar("E", bound=ev.Event)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, as a line in a list."""

    path: Path
    experiment: str
    run_id: str
    started_at: str
    """UTC, ISO 8601; empty if not known."""
    status: RunStatus
    model: str = ""
    judge: str = ""
    steps_done: int = 0
    steps: int = 0
    """Planned."""
    r_ida_first: float | None = None
    r_ida_last: float | None = None
    cost: float | None = None
    """US dollars; None where it is not known."""
    seconds: float | None = None
    problem: str = ""
    """Why it cannot be read."""


def summaries(output_dir: Path) -> list[RunSummary]:
    """Every run below a folder, newest first. A run that cannot be read is in the list, and says why."""
    found = [summary(RunDirectory(path)) for path in run_directories(output_dir)]
    return sorted(found, key=lambda run: (run.started_at or run.run_id, run.run_id), reverse=True)


def summary(directory: RunDirectory) -> RunSummary:
    """One run. Never raises."""
    path = directory.path
    try:
        head, tail = _edges(directory.events)
    except OSError as error:
        return _unreadable(path, f"{directory.events.name}: {error.strerror or error}")
    first = next(iter(head), None)
    if first is None:
        return _unreadable(path, f"{directory.events.name} holds no event")
    started = _first(ev.RunStarted, head)
    ended = _first(ev.RunEnded, tail[:1])
    step = _first(ev.StepFinished, tail)
    alive = ended is None and owner.alive(directory)
    return RunSummary(
        path=path,
        experiment=started.experiment if started else path.parent.name,
        run_id=path.name,
        started_at=first.time,
        status=ended.status if ended else "live" if alive else "died",
        model=started.model if started else "",
        judge=started.judge if started else "",
        steps_done=ended.steps_done if ended else step.step if step else 0,
        steps=started.steps if started else 0,
        r_ida_first=ended.r_ida_first if ended else None,
        r_ida_last=ended.r_ida_last if ended else step.r_ida if step else None,
        cost=ended.cost if ended else None,
        seconds=ended.seconds if ended else None,
    )


def _unreadable(path: Path, problem: str) -> RunSummary:
    return RunSummary(path, path.parent.name, path.name, "", "unreadable", problem=problem)


def run_directories(output_dir: Path) -> Iterator[Path]:
    """The directories below a folder that hold a run."""
    for experiment in _folders(output_dir):
        for run in _folders(experiment):
            if (run / "events.jsonl").exists():
                yield run


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                # `latest` is a link to a run that is listed under its own name.
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )
    except OSError:
        return []


def _edges(path: Path) -> tuple[list[ev.Record], list[ev.Record]]:
    """The records at the head of a file, in order, and those at its tail, the last one first."""
    with open(path, "rb") as file:
        start = file.read(EDGE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - EDGE))
        end = file.read()
    lines = start.split(b"\n")[:-1]
    last = end.split(b"\n")[:-1]
    if size > EDGE:
        del last[:1]  # cut in the middle
    wanted = (b'"StepFinished"', b'"RunEnded"', b'"RunResumed"')
    tail = [raw for raw in reversed(last) if any(w in raw[:120] for w in wanted)]
    return list(_records(lines[:40])), list(_records(tail[:2]))


def _records(lines: list[bytes]) -> Iterator[ev.Record]:
    for raw in lines:
        try:
            yield ev.decode(raw.decode("utf-8"))
        except (ev.EventError, UnicodeDecodeError):
            continue


def _first(kind: type[E], records: list[ev.Record]) -> E | None:
    return next((r.event for r in records if isinstance(r.event, kind)), None)
