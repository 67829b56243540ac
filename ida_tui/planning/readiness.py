"""Readiness checks before a run: device, model, API key, disk space and output folder.

They use neither torch nor the network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.config.checks import check
from ida_tui.config.devices import likely_device
from ida_tui.config.model_files import hub_cache, unusable, weights
from ida_tui.config.schema import Config
from ida_tui.errors import IdaError
from ida_tui.judge.api_key import load_key
from ida_tui.planning.preview import key_source, planned_device
from ida_tui.util.paths import expanded, shown_path

Status = Literal["ready", "note", "missing"]
LITTLE_GB = 2.0
"""Free disk space, in GB, below which a note appears; only a full-model checkpoint is large."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one readiness check.

    Args:
        name: subject of the check, one word.
        status: ready, note, or missing; with a missing requirement the run cannot start.
        text: the result, a sentence without a period.
        fix: what to do; empty if nothing needs to be done.
    """

    name: str
    status: Status
    text: str
    fix: str = ""


def checks(config: Config, *, folder: Path) -> list[Check]:
    """All readiness checks for a run of this experiment.

    Args:
        config: the resolved experiment.
        folder: the working directory, whose `.env` may contain the API key.
    """
    return [
        *_profile(config),
        _device(config),
        *_model(config),
        _key(config, folder),
        *_disk(config),
    ]


def _profile(config: Config) -> Iterator[Check]:
    findings = check(config)
    errors = [f for f in findings if f.severity == "error"]
    if not errors:
        yield Check("profile", "ready", "valid")
    for finding in errors:
        yield Check("profile", "missing", f"{finding.key}: {finding.title}", finding.hint)
    for finding in findings:
        if finding.severity == "note":
            yield Check("profile", "note", finding.title, finding.hint)


def _device(config: Config) -> Check:
    likely = likely_device()
    if config.device not in ("auto", "cpu", likely):
        return Check(
            "device", "missing", f"this machine has no {config.device}", "set device to auto or cpu"
        )
    planned, _ = planned_device(config)
    if config.device == "auto" and planned != likely:
        return Check(
            "device", "note", f"{likely} on this machine; the profile is made for {planned}",
            "use model=embedded, or the experiment quickstart",
        )  # fmt: skip
    return Check("device", "ready", likely if config.device == "auto" else config.device)


def _model(config: Config) -> Iterator[Check]:
    problem = unusable(config.model.path)
    if problem is not None:
        yield Check("model", "missing", *problem)
        return
    files = weights(config.model)
    size = "" if files.size_gb is None else f", {_gigabytes(files.size_gb)}"
    if files.place == "embedded":
        if files.complete:
            yield Check("model", "ready", f"included with ida-tui{size}")
        else:
            yield Check("model", "missing", "its files are not installed", "reinstall ida-tui")
    elif files.place == "folder":
        if files.complete:
            yield Check("model", "ready", f"on this machine{size}")
        else:
            yield Check(
                "model", "missing", "its folder has no *.safetensors files", "set model.path"
            )
    elif files.place == "cache" and files.complete:
        yield Check("model", "ready", f"downloaded{size}")
    else:
        size_gb = config.model.download_gb
        total = "size unknown" if size_gb is None else _gigabytes(size_gb)
        text = "partly downloaded" if files.place == "cache" else "not downloaded yet"
        yield Check("model", "note", f"{text} ({total})", f"hf download {config.model.path}")
        if size_gb is not None:
            yield from _room_for(size_gb, hub_cache(), "the download")


def _key(config: Config, folder: Path) -> Check:
    judge = config.judge
    try:
        key = load_key(judge, dotenv_dir=folder)
    except IdaError as error:
        return Check("key", "missing", error.title, error.hint.splitlines()[0])
    if key is None:
        reason = "not needed by the offline heuristic" if judge.kind == "offline" else "not needed"
        return Check("key", "ready", reason)
    return Check("key", "ready", f"{judge.api_key_env} is set ({key_source(judge)})")


def _disk(config: Config) -> Iterator[Check]:
    output_dir = expanded(config.output_dir)
    existing = _nearest(output_dir, Path.exists)
    if not existing.is_dir():
        yield Check(
            "folder", "missing", f"{shown_path(existing)} is not a folder", "set output_dir"
        )
        return
    if not os.access(existing, os.W_OK):
        yield Check(
            "folder", "missing", f"{shown_path(existing)} is not writable",
            "make it writable, or set output_dir",
        )  # fmt: skip
        return
    free = _free_gb(existing)
    if free is not None and free < LITTLE_GB:
        yield Check("disk", "note", f"only {_gigabytes(free)} free for the run", "set output_dir")
    elif free is not None:
        yield Check("disk", "ready", f"{free:.0f} GB free in {shown_path(output_dir)}")


def _room_for(needed: float, folder: Path, purpose: str) -> Iterator[Check]:
    free = _free_gb(_nearest(folder, Path.is_dir))
    if free is not None and free < needed:
        yield Check(
            "disk", "missing", f"{free:.1f} GB free, but {purpose} needs {needed:.1f} GB",
            f"free up space in {shown_path(folder)}, or set HF_HOME to another disk",
        )  # fmt: skip


def _nearest(path: Path, accept: Callable[[Path], bool]) -> Path:
    path = path.absolute()
    for candidate in (path, *path.parents):
        try:
            if accept(candidate):
                return candidate
        except OSError:
            continue
    return Path("/")


def _free_gb(folder: Path) -> float | None:
    try:
        return shutil.disk_usage(folder).free / 1e9
    except OSError:
        return None


def _gigabytes(size: float) -> str:
    return f"{size:.2f} GB" if size >= 0.1 else f"{size * 1000:.1f} MB"
