"""Everything that a report is made from, read from a run's directory."""

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
"""Characters of a profile that are shown."""
MOST_HASHED = 500_000_000
"""Bytes of weights that a digest is made of; of larger ones there is none."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the run was made with; empty where the manifest does not say."""

    ida_tui: str = ""
    python: str = ""
    platform: str = ""
    git: str = ""
    command: str = ""
    started_at: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    resumed: int = 0
    """How often it was gone on with."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A run, as far as its directory tells."""

    run: Compared
    made: Made
    config_text: str
    """``config.yaml``, without logins; empty where it cannot be read."""
    moments: Moments
    chosen: Chosen
    alive: bool
    """Whether a process trains it now."""
    digest: str
    """SHA-256 of the final adapter; empty where there is none."""


def read(directory: RunDirectory, ended: ev.RunEnded | None = None) -> Facts:
    """Read a run.

    Args:
        directory: the run; finished, unfinished or live.
        ended: its last event, where that is about to be written.

    Raises:
        UsageError: it cannot be read, or has not written anything.
    """
    run = look(directory)
    if run.state.seq < 0:
        raise UsageError(
            f"{shown_path(directory.events)} holds no event yet", "there is nothing to report on"
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
        seen = moments(directory.events)
    except (OSError, ev.EventError) as error:
        raise UsageError(f"{shown_path(directory.path)} cannot be read: {error}") from None
    if run.config is not None:
        seen.kinds |= {prompt.id: prompt.kind for prompt in run.config.prompts.prompts}
    last = run.state.steps[-1].step if run.state.steps else 0
    return Facts(
        run=run,
        made=_made(directory),
        config_text=_config_text(directory),
        moments=seen,
        chosen=choose(stored(directory), seen.kinds, last),
        alive=ended is None and owner.alive(directory),
        digest=_digest(directory),
    )


def _made(directory: RunDirectory) -> Made:
    try:
        found = read_json(directory.manifest)
    except (OSError, ValueError):
        return Made()
    if not isinstance(found, dict):
        return Made()
    packages = found.get("packages")
    resumed = found.get("resumed")
    return Made(
        ida_tui=_text(found, "ida_tui"),
        python=_text(found, "python"),
        platform=_text(found, "platform"),
        git=_text(found, "git"),
        command=_command(found.get("command")),
        started_at=_text(found, "started_at"),
        packages=tuple((str(k), str(v)) for k, v in packages.items() if v)
        if isinstance(packages, dict)
        else (),
        resumed=len(resumed) if isinstance(resumed, list) else 0,
    )


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _command(argv: object) -> str:
    """The command line as it is typed; where the program lies on this machine is nobody's business."""
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        return ""
    words = [without_login(word) for word in argv[1:]]
    return " ".join(["ida-tui", *map(shlex.quote, words)])


def _config_text(directory: RunDirectory) -> str:
    try:
        with open(directory.config, encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_CONFIG + 1)
    except OSError:
        return ""
    if len(text) > MOST_CONFIG:
        text = f"{text[:MOST_CONFIG]}\n# … cut here; config.yaml has all of it\n"
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
