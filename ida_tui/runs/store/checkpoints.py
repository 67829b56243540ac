"""Checkpoints of a run: atomic saving, verification and rotation.

A checkpoint is a directory of files, and the process can die between any two of them. Therefore a checkpoint
is written under a temporary name, `checkpoint.json` (the seal) records the size and SHA-256 of every file,
everything is synced to disk, and one rename makes it valid. The `latest` link moves last. A directory
without a matching seal is reported as broken and never used to resume.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ida_tui.runs.store.json_files import read_json
from ida_tui.util.safe_files import make_directory, open_regular, remove_tree, write_text

SEAL_FILE = "checkpoint.json"
VERSION = 1
REQUIRED_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Without one of these files transformers would silently resume from the weights alone."""
WEIGHT_FILES = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
_NAME_PATTERN = re.compile(r"checkpoint-(\d+)")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint."""

    path: Path
    step: int
    reward: float | None
    """Mean reward of its step; None if nothing was scored."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Contents of the seal, such as run, model, method and judge cost."""


@dataclass(frozen=True, slots=True)
class BrokenCheckpoint:
    """A directory named like a checkpoint that cannot be used, and why."""

    path: Path
    step: int
    reason: str


def save_checkpoint(
    folder: Path,
    step: int,
    write_files: Callable[[Path], None],
    *,
    reward: float | None,
    metadata: Mapping[str, Any],
    keep: int,
) -> Path:
    """Save a checkpoint; returns its path. A valid one of this run and step is not replaced.

    Args:
        folder: the checkpoint directory of the run.
        step: the last finished step.
        write_files: writes the checkpoint files into the given directory.
        reward: mean reward of the step.
        metadata: metadata for the seal; compared on resume.
        keep: number of newest checkpoints to keep, in addition to the best one (`best_checkpoint`).

    Raises:
        OSError: the write failed; older checkpoints are unchanged.
    """
    path = folder / f"checkpoint-{step}"
    existing = verify_checkpoint(path, thorough=True)
    if isinstance(existing, Checkpoint) and existing.metadata.get("run_id") == metadata.get(
        "run_id"
    ):
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_directory(folder)
    remove_unfinished(folder)
    temporary = folder / f".saving-{step}-{os.getpid()}"
    try:
        temporary.mkdir()
        write_files(temporary)
        if missing := _first_missing_file({file.name for file in temporary.iterdir()}):
            text = f"{missing} is missing in the checkpoint of step {step}"
            raise FileNotFoundError(errno.ENOENT, text)
        seal = {
            "version": VERSION,
            "step": step,
            "reward": reward,
            **metadata,
            "files": _file_digests(temporary),
        }
        write_text(temporary / SEAL_FILE, json.dumps(seal, indent=1) + "\n")
        sync_tree(temporary)
        remove_tree(path)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(folder)
    _point_latest(folder, path.name)
    _rotate(folder, keep, metadata.get("run_id"))
    return path


def list_checkpoints(folder: Path) -> tuple[list[Checkpoint], list[BrokenCheckpoint]]:
    """The valid and the broken checkpoints of a run, each newest first."""
    valid: list[Checkpoint] = []
    broken: list[BrokenCheckpoint] = []
    for path in _candidate_directories(folder):
        checkpoint = verify_checkpoint(path)
        if isinstance(checkpoint, Checkpoint):
            valid.append(checkpoint)
        elif checkpoint is not None:
            broken.append(checkpoint)
    return (
        sorted(valid, key=lambda checkpoint: -checkpoint.step),
        sorted(broken, key=lambda checkpoint: -checkpoint.step),
    )


def verify_checkpoint(
    path: Path, *, thorough: bool = False
) -> Checkpoint | BrokenCheckpoint | None:
    """Verify a checkpoint; None if the directory is missing or is not named like a checkpoint.

    Args:
        path: the checkpoint directory.
        thorough: also compare the SHA-256 of every file, which reads all files.
    """
    match = _NAME_PATTERN.fullmatch(path.name)
    if match is None or not path.is_dir():
        return None
    step = int(match[1])
    if path.is_symlink():
        return BrokenCheckpoint(path, step, "it is a link to another directory")
    try:
        seal: Any = read_json(path / SEAL_FILE)
        files: dict[str, dict[str, Any]] = dict(seal["files"])
        version, sealed_step = seal["version"], seal["step"]
        reward = seal.get("reward", seal.get("r_ida"))
    except FileNotFoundError:
        return BrokenCheckpoint(path, step, "it is incomplete")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return BrokenCheckpoint(path, step, f"its {SEAL_FILE} cannot be read")
    if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
        return BrokenCheckpoint(path, step, f"its {SEAL_FILE} cannot be read")
    if version != VERSION:
        return BrokenCheckpoint(path, step, f"it has the unknown format version {version}")
    if sealed_step != step:
        return BrokenCheckpoint(path, step, f"its {SEAL_FILE} is for step {sealed_step}")
    if missing := _first_missing_file(files):
        return BrokenCheckpoint(path, step, f"{missing} is missing")
    if problem := _find_foreign_entry(path, files):
        return BrokenCheckpoint(path, step, problem)
    for name, expected in files.items():
        problem = _find_difference(path / name, expected, thorough)
        if problem:
            return BrokenCheckpoint(path, step, f"{name} {problem}")
    return Checkpoint(path, step, reward, seal)


def _find_foreign_entry(folder: Path, files: Collection[str]) -> str:
    """Describes the first foreign entry in a checkpoint: a link, or a file that is not in the seal.

    Foreign entries are rejected because a library may read, or even execute, any file in the directory.
    """
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            file = Path(parent) / name
            is_known = name in folders or str(file.relative_to(folder)) in (*files, SEAL_FILE)
            if file.is_symlink() or not is_known:
                return f"it contains an unexpected file or link: {name}"
    return ""


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary directories of processes that died while saving."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".saving-*"):
            remove_tree(path)


def _first_missing_file(names: Collection[str]) -> str:
    """The first required file that is not among the names; empty if none is missing."""
    if not any(name in names for name in WEIGHT_FILES):
        return "the file with the weights"
    return next((name for name in REQUIRED_FILES if name not in names), "")


def _find_difference(file: Path, expected: Mapping[str, Any], thorough: bool) -> str:
    try:
        if file.stat().st_size != expected["bytes"]:
            return "has the wrong size"
        if thorough and _sha256(file) != expected["sha256"]:
            return "has the wrong SHA-256"
    except FileNotFoundError:
        return "is missing"
    except (OSError, KeyError, TypeError, ValueError):
        return "cannot be read"
    return ""


def _file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _sha256(file: Path) -> str:
    """SHA-256 of a file, read in chunks to avoid a second copy of the model in memory."""
    digest = hashlib.sha256()
    with open_regular(file) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_tree(folder: Path) -> None:
    """Sync all files and directories below a directory to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open_regular(path) as stream:
                os.fsync(stream.fileno())
        else:
            _sync_directory(path)
    _sync_directory(folder)


def _sync_directory(folder: Path) -> None:
    # Some file systems cannot sync a directory; the rename is still atomic.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _point_latest(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        temporary = folder / f".latest-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        temporary.replace(folder / "latest")


def _rotate(folder: Path, keep: int, run_id: object = None) -> None:
    """Remove old checkpoints of this run, except the newest `keep` and the best one."""
    own = [
        checkpoint
        for checkpoint in list_checkpoints(folder)[0]
        if checkpoint.metadata.get("run_id") == run_id
    ]
    best = best_checkpoint(own)
    for old in own[keep:]:
        if best is None or old.path != best.path:
            # Renamed first, so that an interruption never leaves a partial checkpoint.
            discarded = folder / f".saving-old-{old.step}"
            with contextlib.suppress(OSError):
                old.path.replace(discarded)
            remove_tree(discarded)


def best_checkpoint(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the best mean reward on the held-out prompts, or else in training.

    The reward on the held-out prompts counts if a checkpoint has one (`evaluation.every`); checkpoints
    without one are then not compared. Otherwise the mean over a full pass through the training prompts
    counts: the reward of one step depends on the step's prompts, so it does not count where a seal has the
    mean of a pass. Only checkpoints that were scored in the same way as the newest one are compared.

    Args:
        checkpoints: checkpoints of one run, newest first.

    Returns:
        The best checkpoint, the newest of equal ones; None if none has a reward.
    """
    scoring = checkpoints[0].metadata.get("scoring") if checkpoints else None
    comparable = [c for c in checkpoints if c.metadata.get("scoring", scoring) == scoring]
    for reward_of in (_held_out_reward, _pass_reward):
        rewards = [
            (reward, checkpoint.step, checkpoint)
            for checkpoint in comparable
            if (reward := reward_of(checkpoint)) is not None
        ]
        if rewards:
            return max(rewards, key=lambda row: row[:2])[2]
    return None


def _held_out_reward(checkpoint: Checkpoint) -> float | None:
    """Mean reward on the held-out prompts at its step; None if they were not evaluated there."""
    return _finite_number(checkpoint.metadata.get("held_out_reward"))


def _pass_reward(checkpoint: Checkpoint) -> float | None:
    """Mean reward over a pass through the prompts; of the step, in the seals of old runs."""
    reward = checkpoint.metadata.get(
        "pass_reward", checkpoint.metadata.get("pass_r_ida", checkpoint.reward)
    )
    return _finite_number(reward)


def _finite_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _candidate_directories(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path for path in folder.iterdir() if _NAME_PATTERN.fullmatch(path.name))
