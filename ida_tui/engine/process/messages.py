"""Messages between the app and a process that computes for it, as they are pickled into the socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ida_tui.config.schema import Config, JudgeKey, PromptKind
from ida_tui.engine.inference.chat import ChatEvent
from ida_tui.engine.run.background import BackgroundRun
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import IdaError
from ida_tui.events.types import Record
from ida_tui.runs.directory import RunDirectory

# -- of a run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartRun:
    """Train this run. The judge's API key travels only here: it is in no argument, variable or file."""

    config: Config
    key: JudgeKey
    argv: list[str]


RunRequest = Literal["stop", "pause", "resume", "hand_over"]
"""Requests to the run, named as the methods of `Session`."""


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


# -- of a chat --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartChat:
    """Load the models of this run."""

    directory: RunDirectory
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Have both models answer a message."""

    text: str
    kind: PromptKind
    temperature: float


ChatRequest = Literal["judge", "start_over", "stop", "close"]
"""Requests to the chat, named as the methods of `Chat`."""


@dataclass(frozen=True, slots=True)
class NewChatEvent:
    """The next event of the chat."""

    event: ChatEvent


@dataclass(frozen=True, slots=True)
class ChatEnded:
    """The chat has ended."""


# ---------------------------------------------------------------------------------------------

Prepare = Literal["prepare"]
"""Import the libraries of a run, which may follow."""
ToEngine = Prepare | StartRun | RunRequest | ResumeDecision | StartChat | ChatRequest | Ask
FromEngine = NewRecords | HandedOver | RunFinished | NewChatEvent | ChatEnded
