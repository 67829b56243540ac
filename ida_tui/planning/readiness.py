"""Can this run start here, now? Device, model, key, disk and folder, looked at without torch or a network."""

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
"""Free space below which a note is made; a LoRA checkpoint is small, a whole model is not."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a run needs.

    Args:
        name: what it is about, in a word.
        status: ready, worth knowing, or missing: then the run cannot start.
        text: how it stands, in a sentence without a full stop.
        fix: what to do about it, where something should be done.
    """

    name: str
    status: Status
    text: str
    fix: str = ""


def checks(config: Config, *, folder: Path) -> list[Check]:
    """Everything that a run of this experiment needs.

    Args:
        config: the resolved experiment.
        folder: the working directory, whose `.env` may hold a key.
    """
    return [
        *_profile(config),
        _device(config),
        *_model(config),
        _key(config, folder),
        *_disk(config),
    ]


def _profile(config: Config) -> Iterator[Check]:
    found = check(config)
    errors = [f for f in found if f.severity == "error"]
    if not errors:
        yield Check("profile", "ready", "its values fit together")
    for finding in errors:
        yield Check("profile", "missing", f"{finding.key}: {finding.title}", finding.hint)
    for finding in found:
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
            "device", "note", f"{likely} here; the profile is meant for {planned}",
            "model=embedded, or quickstart, suits this machine",
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
            yield Check("model", "ready", f"ships with ida-tui{size}")
        else:
            yield Check("model", "missing", "its files are not installed", "install ida-tui again")
    elif files.place == "folder":
        if files.complete:
            yield Check("model", "ready", f"on this machine{size}")
        else:
            yield Check(
                "model", "missing", "no *.safetensors in its folder", "name another model.path"
            )
    elif files.place == "cache" and files.complete:
        yield Check("model", "ready", f"downloaded before{size}")
    else:
        much = config.model.download_gb
        told = "its size is not known" if much is None else _gigabytes(much)
        part = "the rest is to be downloaded" if files.place == "cache" else "to be downloaded"
        yield Check("model", "note", f"{part} first: {told}", f"hf download {config.model.path}")
        if much is not None:
            yield from _room_for(much, hub_cache(), "the download")


def _key(config: Config, folder: Path) -> Check:
    judge = config.judge
    try:
        key = load_key(judge, dotenv_dir=folder)
    except IdaError as error:
        return Check("key", "missing", error.title, error.hint.splitlines()[0])
    if key is None:
        why = "the offline heuristic needs none" if judge.kind == "offline" else "none needed"
        return Check("key", "ready", why)
    return Check("key", "ready", f"{judge.api_key_env} is set ({key_source(judge)})")


def _disk(config: Config) -> Iterator[Check]:
    wanted = expanded(config.output_dir)
    there = _nearest(wanted, Path.exists)
    if not there.is_dir():
        yield Check("folder", "missing", f"{shown_path(there)} is no folder", "set output_dir")
        return
    if not os.access(there, os.W_OK):
        yield Check(
            "folder", "missing", f"{shown_path(there)} cannot be written to",
            "make it writable, or set output_dir",
        )  # fmt: skip
        return
    free = _free_gb(there)
    if free is not None and free < LITTLE_GB:
        yield Check("disk", "note", f"only {_gigabytes(free)} free for the run", "set output_dir")
    elif free is not None:
        yield Check("disk", "ready", f"{free:.0f} GB free in {shown_path(wanted)}")


def _room_for(needed: float, folder: Path, what: str) -> Iterator[Check]:
    free = _free_gb(_nearest(folder, Path.is_dir))
    if free is not None and free < needed:
        yield Check(
            "disk", "missing", f"{free:.1f} GB free, {what} needs {needed:.1f} GB",
            f"make room in {shown_path(folder)}, or set HF_HOME to another disk",
        )  # fmt: skip


def _nearest(path: Path, good: Callable[[Path], bool]) -> Path:
    path = path.absolute()
    for place in (path, *path.parents):
        try:
            if good(place):
                return place
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
