"""Find a run that stopped early, and where it can go on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.events import EventError
from ida_tui.paths import shown_path
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.replay import Replay
from ida_tui.state import RunState

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a run goes on."""

    directory: RunDirectory
    state: RunState
    """What is known of the run so far."""
    checkpoint: Path | None
    """Null where no step was finished and saved: the run begins anew, in the same directory."""
    step: int
    """The last finished step that the checkpoint holds."""


def find(name: str, output_dir: Path) -> RunDirectory:
    """The run that a person means: a path, ``experiment/run-id``, a run id, or an experiment's newest.

    Raises:
        UsageError: there is none, or more than one.
    """
    for path in (Path(name).expanduser(), output_dir / name):
        if (path / "events.jsonl").is_file():
            return RunDirectory(path.resolve())
        if (path / "latest" / "events.jsonl").is_file():
            return RunDirectory((path / "latest").resolve())
    found = sorted(output_dir.glob(f"*/{_literal(name)}/events.jsonl"))
    if len(found) == 1:
        return RunDirectory(found[0].parent.resolve())
    if found:
        several = " or ".join(shown_path(path.parent) for path in found[:3])
        raise UsageError(f"several runs are called {name}", f"did you mean {several}?")
    raise UsageError(
        f"there is no run {name}",
        f"name its folder, such as {shown_path(output_dir)}/quickstart/latest",
    )


def resumption(directory: RunDirectory) -> Resumption:
    """Where this run can go on.

    Raises:
        UsageError: it is complete, it is being trained now, or it cannot be read.
    """
    where = shown_path(directory.path)
    if owner.alive(directory):
        raise UsageError(f"{where} is being trained now, by another process", "stop it there first")
    try:
        state = Replay.open(directory.events).end
    except (OSError, EventError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from None
    if state.ended is not None and state.ended.status == "done":
        raise UsageError(f"{where} is complete", "ida-tui opens it: 4, then enter")
    checkpoints = complete_checkpoints(directory)
    step = max(checkpoints, default=0)
    return Resumption(directory, state, checkpoints.get(step), step)


def complete_checkpoints(directory: RunDirectory) -> dict[int, Path]:
    """Step → folder of the checkpoints that have all their files."""
    found = {}
    for path in directory.checkpoints.glob("checkpoint-*"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match and _is_complete(path, int(match[1])):
            found[int(match[1])] = path
    return found


def _is_complete(path: Path, step: int) -> bool:
    if not all((path / name).is_file() for name in _NEEDED):
        return False
    if not any((path / name).is_file() for name in _WEIGHTS):
        return False
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
