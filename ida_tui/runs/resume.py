"""Find a run that stopped early, and where it can go on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.events.types import EventError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store import checkpoints
from ida_tui.runs.store.checkpoints import Broken, Checkpoint
from ida_tui.util.paths import shown_path


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
    rejected: tuple[Broken, ...] = ()
    """Newer folders that look like checkpoints and are none."""


def find(name: str, output_dir: Path) -> RunDirectory:
    """The run that a person means: a path, ``experiment/run-id``, a run id, or an experiment's newest.

    Raises:
        UsageError: there is none, or more than one.
    """
    for path in (Path(name).expanduser(), output_dir / name):
        if (path / "events.jsonl").is_file():
            return RunDirectory(path.resolve())
        if (path / "latest" / "events.jsonl").is_file():
            latest = (path / "latest").resolve()
            if latest.parent != path.resolve():
                raise UsageError(
                    f"{shown_path(path)}/latest leads to another place: {latest}",
                    "name the run's own folder",
                )
            return RunDirectory(latest)
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


def newest(output_dir: Path) -> RunDirectory:
    """The run of any experiment that began last.

    Raises:
        UsageError: there is none.
    """
    found = [
        path.parent
        for path in output_dir.glob("*/*/events.jsonl")
        if path.parent.name != "latest" and not path.parent.is_symlink()
    ]
    if not found:
        raise UsageError(
            f"there is no run in {shown_path(output_dir)}", "start one: ida-tui --run quickstart"
        )
    # Their names are their moments.
    return RunDirectory(max(found, key=lambda path: path.name).resolve())


def resumption(directory: RunDirectory) -> Resumption:
    """Where this run can go on.

    Raises:
        UsageError: it is complete, it is being trained now, or it cannot be read.
    """
    where = shown_path(directory.path)
    if strange := _strange(directory.path):
        raise UsageError(
            f"{strange} in {where} is no file or folder of the run's own",
            "a run is written to as it goes on; put a copy in the place of the link",
        )
    if owner.alive(directory):
        raise UsageError(f"{where} is being trained now, by another process", "stop it there first")
    try:
        state = Replay.open(directory.events).end
    except (OSError, EventError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from None
    if state.ended is not None and state.ended.status == "done":
        raise UsageError(f"{where} is complete", "ida-tui opens it: 4, then enter")
    newest, rejected = newest_whole(directory, state.run.run_id if state.run else "")
    step = newest.step if newest else 0
    return Resumption(directory, state, newest.path if newest else None, step, tuple(rejected))


def newest_whole(directory: RunDirectory, run_id: str) -> tuple[Checkpoint | None, list[Broken]]:
    """The newest checkpoint whose every byte is as it was written, and those newer than it that are not.

    Args:
        directory: the run.
        run_id: the run that it must have been made by; empty accepts any.
    """
    whole, broken = checkpoints.find(directory.checkpoints)
    rejected = list(broken)
    for candidate in whole:
        maker = candidate.facts.get("run_id", run_id)
        found = checkpoints.look(candidate.path, thorough=True)
        if run_id and maker != run_id:
            found = Broken(candidate.path, candidate.step, f"it was made by another run, {maker}")
        if isinstance(found, Checkpoint):
            return found, [bad for bad in rejected if bad.step >= found.step]
        if isinstance(found, Broken):
            rejected.append(found)
    return None, rejected


def _strange(folder: Path) -> str:
    """A link, a pipe or a device in a run's directory, which would be written to or waited for."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                own = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
                if not own:
                    return entry.name
    except OSError:
        return ""
    return ""


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
