"""Messages between the app and the process that trains its run, as they are pickled into the socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine.run.background import BackgroundRun
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import IdaError
from ida_tui.events.types import Record

Request = Literal["stop", "pause", "resume", "hand_over"]
"""Requests to the run, named as the methods of `Session`."""


@dataclass(frozen=True, slots=True)
class StartRun:
    """Train this run. The judge's API key travels only here: it is in no argument, variable or file."""

    config: Config
    key: JudgeKey
    argv: list[str]


@dataclass(frozen=True, slots=True)
class NewRecords:
    """The next records of the run."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The run goes on in the background."""

    run: BackgroundRun


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended, and its lock is free."""

    start_error: IdaError | None
    """Why it could not start, if it could not."""


ToEngine = StartRun | Request | ResumeDecision
FromEngine = NewRecords | HandedOver | RunFinished
