"""Inputs of a report, read from the run directory."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ida_tui.analysis.comparison import Compared, look
from ida_tui.analysis.report.moments import Moments, moments
from ida_tui.analysis.report.select import Chosen, choose
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.events.state import fold
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import stored
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import shown_path
from ida_tui.util.text import without_login

MOST_CONFIG = 400_000
"""Maximum characters of config.yaml to show."""
MOST_HASHED = 500_000_000
"""Maximum size, in bytes, of an adapter file to hash."""


@dataclass(frozen=True, slots=True)
class Made:
    """Versions, platform and command of a run, from its manifest; empty values are unknown."""

    ida_tui: str = ""
    python: str = ""
    platform: str = ""
    git: str = ""
    command: str = ""
    started_at: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    resumed: int = 0
    """Number of times the run was resumed."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All inputs of a report."""

    run: Compared
    made: Made
    config_text: str
    """Text of ``config.yaml`` without credentials; empty if it cannot be read."""
    moments: Moments
    chosen: Chosen
    alive: bool
    """Whether a process is training the run now."""
    digest: str
    """SHA-256 of the final adapter; empty if there is none."""


def read(directory: RunDirectory, ended: ev.RunEnded | None = None) -> Facts:
    """Load the report inputs of a run.

    Args:
        directory: the run; finished, unfinished or live.
        ended: the run's final event, if it is not written to disk yet.

    Raises:
        UsageError: the run cannot be read, or has no events.
    """
    run = look(directory)
    if run.state.seq < 0:
        raise UsageError(
            f"{shown_path(directory.events)} has no events yet",
            "write the report after the run has started",
        )
    if ended is not None:
        state = run.state
        run = replace(
            run,
            state=fold(state, ev.Record(state.seq + 1, state.updated_at, ended)),
            summary=run.summary._replace(
                status=ended.status, steps_done=ended.steps_done, seconds=ended.seconds
            ),
        )
    try:
        extras = moments(directory.events)
    except (OSError, ev.EventError) as error:
        raise UsageError(f"could not read {shown_path(directory.path)}: {error}") from None
    if run.config is not None:
        extras.kinds |= {prompt.id: prompt.kind for prompt in run.config.prompts.prompts}
    last = run.state.steps[-1].step if run.state.steps else 0
    return Facts(
        run=run,
        made=_made(directory),
        config_text=_config_text(directory),
        moments=extras,
        chosen=choose(stored(directory), extras.kinds, last),
        alive=ended is None and owner.alive(directory),
        digest=_digest(directory),
    )


def _made(directory: RunDirectory) -> Made:
    try:
        manifest = read_json(directory.manifest)
    except (OSError, ValueError):
        return Made()
    if not isinstance(manifest, dict):
        return Made()
    packages = manifest.get("packages")
    resumed = manifest.get("resumed")
    return Made(
        ida_tui=_text(manifest, "ida_tui"),
        python=_text(manifest, "python"),
        platform=_text(manifest, "platform"),
        git=_text(manifest, "git"),
        command=_command(manifest.get("command")),
        started_at=_text(manifest, "started_at"),
        packages=tuple((str(k), str(v)) for k, v in packages.items() if v)
        if isinstance(packages, dict)
        else (),
        resumed=len(resumed) if isinstance(resumed, list) else 0,
    )


def _text(manifest: Mapping[str, Any], name: str) -> str:
    value = manifest.get(name)
    return value if isinstance(value, str) else ""


def _command(argv: object) -> str:
    """The command line without credentials and without the local path of the program."""
    if not isinstance(argv, list) or not all(isinstance(argument, str) for argument in argv):
        return ""
    arguments = [without_login(argument) for argument in argv[1:]]
    return " ".join(["ida-tui", *map(shlex.quote, arguments)])


def _config_text(directory: RunDirectory) -> str:
    try:
        with open(directory.config, encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_CONFIG + 1)
    except OSError:
        return ""
    if len(text) > MOST_CONFIG:
        text = f"{text[:MOST_CONFIG]}\n# … truncated; see config.yaml for the rest\n"
    lines = text.split("\n")
    return "\n".join(without_login(line) if "base_url" in line else line for line in lines)


def _digest(directory: RunDirectory) -> str:
    path = directory.weights("lora") / "adapter_model.safetensors"
    try:
        if not path.is_file() or path.stat().st_size > MOST_HASHED:
            return ""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
