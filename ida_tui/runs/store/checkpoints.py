"""Checkpoints that are whole or not there: written beside, sealed, and moved into place in one step.

A trainer's checkpoint is a folder of files, and a process can die between any two of them. Here it is written
to a folder of another name; then every file is listed with its size and digest in ``checkpoint.json`` (the
seal), everything is synced to the disk, and one rename makes it a checkpoint. ``latest`` moves last. Whatever
has no seal, or does not agree with it, is not resumed from, and is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ida_tui.runs.store.json_files import read_json

SEAL = "checkpoint.json"
VERSION = 1
NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Without one of them transformers would go on from the weights alone, and say nothing."""
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One sealed checkpoint."""

    path: Path
    step: int
    r_ida: float | None
    """Mean R_IDA of its step; null where nothing was scored."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was made by: run, model, method, judge's cost."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder that looks like a checkpoint and is none."""

    path: Path
    step: int
    why: str


def save(
    folder: Path,
    step: int,
    write: Callable[[Path], None],
    *,
    r_ida: float | None,
    facts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Make a checkpoint; returns where it is. One of the same step that is whole already stays.

    Args:
        folder: where the checkpoints of the run are.
        step: the last finished step.
        write: writes the files into the folder that it is given.
        r_ida: mean R_IDA of the step.
        facts: kept in the seal, and compared when it is resumed from.
        keep: newest checkpoints that stay, beside the best one by R_IDA.

    Raises:
        OSError: the disk refused something; older checkpoints are as they were.
    """
    place = folder / f"checkpoint-{step}"
    if isinstance(look(place), Checkpoint):
        return place
    folder.mkdir(parents=True, exist_ok=True)
    clear_unfinished(folder)
    beside = folder / f".saving-{step}-{os.getpid()}"
    try:
        beside.mkdir()
        write(beside)
        if lacking := _lacking({file.name for file in beside.iterdir()}):
            raise OSError(f"the checkpoint of step {step} lacks {lacking}")
        seal = {
            "version": VERSION,
            "step": step,
            "r_ida": r_ida,
            **facts,
            "files": _digests(beside),
        }
        (beside / SEAL).write_text(json.dumps(seal, indent=1) + "\n", encoding="utf-8")
        _sync(beside)
        _remove(place)
        beside.replace(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _sync_folder(folder)
    _point_latest(folder, place.name)
    _rotate(folder, keep, facts.get("run_id"))
    return place


def find(folder: Path) -> tuple[list[Checkpoint], list[Broken]]:
    """The checkpoints of a run, newest first, and what only looks like one."""
    whole: list[Checkpoint] = []
    broken: list[Broken] = []
    for path in _named(folder):
        found = look(path)
        if isinstance(found, Checkpoint):
            whole.append(found)
        elif found is not None:
            broken.append(found)
    return (
        sorted(whole, key=lambda c: -c.step),
        sorted(broken, key=lambda b: -b.step),
    )


def look(path: Path, *, thorough: bool = False) -> Checkpoint | Broken | None:
    """What a folder holds; None where it is not named like a checkpoint or is not there.

    Args:
        path: the folder.
        thorough: compare every file's digest too, not its size alone; reads all of it.
    """
    match = _NAME.fullmatch(path.name)
    if match is None or not path.is_dir():
        return None
    step = int(match[1])
    if path.is_symlink():
        return Broken(path, step, "it is a link to another place")
    try:
        seal: Any = read_json(path / SEAL)
        files: dict[str, dict[str, Any]] = dict(seal["files"])
        version, sealed_step, r_ida = seal["version"], seal["step"], seal.get("r_ida")
    except FileNotFoundError:
        return Broken(path, step, "it was never finished")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Broken(path, step, f"its {SEAL} cannot be read")
    if r_ida is not None and not (isinstance(r_ida, int | float) and 0 <= r_ida <= 1):
        return Broken(path, step, f"its {SEAL} cannot be read")
    if version != VERSION:
        return Broken(path, step, f"it is of version {version}, which is not known here")
    if sealed_step != step:
        return Broken(path, step, f"it was made for step {sealed_step}")
    if lacking := _lacking(files):
        return Broken(path, step, f"it lacks {lacking}")
    if stranger := _stranger(path, files):
        return Broken(path, step, stranger)
    for name, wanted in files.items():
        problem = _differs(path / name, wanted, thorough)
        if problem:
            return Broken(path, step, f"{name} {problem}")
    return Checkpoint(path, step, r_ida, seal)


def _stranger(folder: Path, files: Collection[str]) -> str:
    """What is in a checkpoint and is not its own: a link, or a file that its seal does not know.

    A library may read, and run, whatever lies beside the files that are sealed.
    """
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            file = Path(place) / name
            known = name in folders or str(file.relative_to(folder)) in (*files, SEAL)
            if file.is_symlink() or not known:
                return f"{name} in it is not its own"
    return ""


def _remove(path: Path) -> None:
    """Remove a folder; of a link only the link, never what it leads to."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what a process that died in the middle of saving has left."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".saving-*"):
            _remove(path)


def _lacking(names: Collection[str]) -> str:
    """A file that a checkpoint needs and that is not among the names; empty where nothing is missing."""
    if not any(name in names for name in WEIGHTS):
        return "its weights"
    return next((name for name in NEEDED if name not in names), "")


def _differs(file: Path, wanted: Mapping[str, Any], thorough: bool) -> str:
    try:
        if file.stat().st_size != wanted["bytes"]:
            return "is not as long as it was"
        if thorough and _digest(file) != wanted["sha256"]:
            return "is not what was written"
    except FileNotFoundError:
        return "is missing"
    except (OSError, KeyError, TypeError, ValueError):
        return "cannot be read"
    return ""


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _digest(file: Path) -> str:
    """SHA-256 of a file, read in pieces: a model is not held in memory a second time."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """Everything below a folder is on the disk when this returns."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the rename is still one step.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _point_latest(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        beside = folder / f".latest-{os.getpid()}"
        beside.unlink(missing_ok=True)
        beside.symlink_to(name)
        beside.replace(folder / "latest")


def _rotate(folder: Path, keep: int, run_id: object = None) -> None:
    """The newest stay, and the best by R_IDA; what is no checkpoint, or another run's, is left alone."""
    whole = [one for one in find(folder)[0] if one.facts.get("run_id") == run_id]
    best = max(whole, key=lambda c: (-1.0 if c.r_ida is None else c.r_ida, c.step), default=None)
    for old in whole[keep:]:
        if best is None or old.path != best.path:
            # Under another name first, so that it is never half a checkpoint.
            gone = folder / f".saving-old-{old.step}"
            with contextlib.suppress(OSError):
                old.path.replace(gone)
            _remove(gone)


def _named(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
