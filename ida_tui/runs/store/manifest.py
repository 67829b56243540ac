"""`manifest.json` of a run: versions, machine, seed and command line.

Package versions are read from metadata, without importing the packages.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ida_tui import __version__
from ida_tui.config.models import gguf
from ida_tui.config.models.source import find_source
from ida_tui.config.schema import Config
from ida_tui.config.scoring.reward_files import file_digests
from ida_tui.runs.store.git_revision import git_revision
from ida_tui.runs.store.json_files import read_json
from ida_tui.system.launcher import launcher_record
from ida_tui.util.safe_files import write_text

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "openai", "textual")


def write(
    path: Path,
    *,
    config: Config,
    run_id: str,
    device: str,
    threads: int,
    started_at: str,
    argv: Sequence[str],
) -> None:
    """Write the manifest of one run.

    Args:
        path: the file.
        config: the resolved profile.
        run_id: name of the run directory.
        device: the selected device, such as `mps` or `cpu`.
        threads: number of threads that torch computes with, in each process.
        started_at: UTC, ISO 8601.
        argv: the command line as typed.
    """
    packages = PACKAGES if config.model.quantization == "none" else (*PACKAGES, "bitsandbytes")
    manifest = {
        "run_id": run_id,
        "experiment": config.name,
        "started_at": started_at,
        "command": list(argv),
        "seed": config.seed,
        "device": device,
        "threads": threads,
        "ida_tui": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed_version(name) for name in packages},
        "git": git_revision(Path.cwd()),
        "data": data_files(config),
        **launcher_record(),
        **model_file(config),
        **_reward_files(file_digests(config.rubric)),
    }
    write_text(path, json.dumps(manifest, indent=2) + "\n")


def model_file(config: Config) -> dict[str, Any]:
    """Name, size, fingerprint and, once unpacked, digest of the model's GGUF file; empty without one."""
    source = find_source(config.model.path)
    if source.kind != "gguf" or source.place is None:
        return {}
    try:
        known = {"file": source.place.name, "fingerprint": gguf.fingerprint(source.place)}
    except (OSError, ValueError):
        return {}
    unpacked = read(gguf.unpacked_folder(source.place) / gguf.SOURCE_FILE)
    return {"model_file": {**unpacked, **known}}


def _reward_files(digests: Mapping[str, str]) -> dict[str, Any]:
    """The digests of the files of reward functions; empty without any."""
    return {"reward_files": dict(digests)} if digests else {}


def record_resume(
    path: Path,
    *,
    resumed_at: str,
    argv: Sequence[str],
    threads: int,
    data: Sequence[Mapping[str, Any]] = (),
    model: Mapping[str, Any] | None = None,
    reward_files: Mapping[str, str] | None = None,
) -> None:
    """Record in the manifest that the run was resumed; an unreadable manifest is replaced.

    Args:
        path: the file.
        resumed_at: UTC, ISO 8601.
        argv: the command line as typed.
        threads: number of threads that torch computes with, in each process.
        data: the data files of the prompts, from `data_files`.
        model: what `model_file` says about the model.
        reward_files: the digests of the files of the reward functions.
    """
    manifest = read(path)
    resumed = {
        "at": resumed_at,
        "command": list(argv),
        "threads": threads,
        "ida_tui": __version__,
        "git": git_revision(Path.cwd()),
        "data": list(data),
        **launcher_record(),
        **(model or {}),
        **_reward_files(reward_files or {}),
    }
    earlier = manifest.get("resumed")
    manifest["resumed"] = [*(earlier if isinstance(earlier, list) else []), resumed]
    write_text(path, json.dumps(manifest, indent=2) + "\n")


def recorded_threads(path: Path) -> int | None:
    """The number of threads that the run's last process computed with; None if it is not recorded."""
    for entry in _starts(path):
        threads = entry.get("threads")
        if type(threads) is int and threads > 0:
            return threads
    return None


def recorded_launchers(path: Path) -> list[Any]:
    """What was recorded about the torchruns that have started or resumed the run, newest first."""
    return [entry.get("torchrun") for entry in _starts(path)]


def _starts(path: Path) -> list[dict[str, Any]]:
    """The entries of the run's resumes and of its start, newest first."""
    manifest = read(path)
    resumed = manifest.get("resumed")
    entries = (*reversed(resumed if isinstance(resumed, list) else []), manifest)
    return [entry for entry in entries if isinstance(entry, dict)]


def data_files(config: Config) -> list[dict[str, Any]]:
    """The data files of the prompts, each with its digest; empty for prompts in a profile."""
    if config.prompts.source is None:
        return []
    return [asdict(file) for file in config.prompts.load().files]


def read(path: Path) -> dict[str, Any]:
    """The manifest; empty if it cannot be read."""
    try:
        manifest = read_json(path)
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def installed_version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
