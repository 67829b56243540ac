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

from ida_tui.config.checks import check_config
from ida_tui.config.devices import guess_device
from ida_tui.config.model_files import hub_cache, inspect_model, model_path_problem
from ida_tui.config.schema import Config
from ida_tui.errors import IdaError
from ida_tui.judge.api_key import load_api_key
from ida_tui.planning.preview import choose_planned_device, key_source
from ida_tui.util.format import format_size
from ida_tui.util.paths import display_path, expand_home

ReadinessStatus = Literal["ready", "note", "missing"]
LOW_DISK_GB = 2.0
"""Free disk space, in GB, below which a note appears; only a full-model checkpoint is large."""


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The result of one readiness check.

    Args:
        name: subject of the check, one word.
        status: ready, note, or missing; with a missing requirement the run cannot start.
        text: the result, a sentence without a period.
        fix: what to do; empty if nothing needs to be done.
    """

    name: str
    status: ReadinessStatus
    text: str
    fix: str = ""


def check_readiness(config: Config, *, folder: Path) -> list[ReadinessCheck]:
    """All readiness checks for a run of this experiment.

    Args:
        config: the resolved experiment.
        folder: the working directory, whose `.env` may contain the API key.
    """
    return [
        *_check_profile(config),
        _check_device(config),
        *_check_model(config),
        _check_key(config, folder),
        *_check_disk(config),
    ]


def _check_profile(config: Config) -> Iterator[ReadinessCheck]:
    findings = check_config(config)
    errors = [f for f in findings if f.severity == "error"]
    if not errors:
        yield ReadinessCheck("profile", "ready", "valid")
    for finding in errors:
        yield ReadinessCheck("profile", "missing", f"{finding.key}: {finding.title}", finding.hint)
    for finding in findings:
        if finding.severity == "note":
            yield ReadinessCheck("profile", "note", finding.title, finding.hint)


def _check_device(config: Config) -> ReadinessCheck:
    likely = guess_device()
    if config.device not in ("auto", "cpu", likely):
        return ReadinessCheck(
            "device", "missing", f"this machine has no {config.device}", "set device to auto or cpu"
        )
    planned, _ = choose_planned_device(config)
    if config.device == "auto" and planned != likely:
        return ReadinessCheck(
            "device", "note", f"{likely} on this machine; the profile is made for {planned}",
            "use model=embedded, or the experiment quickstart",
        )  # fmt: skip
    return ReadinessCheck("device", "ready", likely if config.device == "auto" else config.device)


def _check_model(config: Config) -> Iterator[ReadinessCheck]:
    problem = model_path_problem(config.model.path)
    if problem is not None:
        yield ReadinessCheck("model", "missing", *problem)
        return
    files = inspect_model(config.model)
    size = "" if files.size_gb is None else f", {format_size(1e9 * files.size_gb)}"
    if files.location == "embedded":
        if files.complete:
            yield ReadinessCheck("model", "ready", f"included with ida-tui{size}")
        else:
            yield ReadinessCheck(
                "model", "missing", "its files are not installed", "reinstall ida-tui"
            )
    elif files.location == "folder":
        if files.complete:
            yield ReadinessCheck("model", "ready", f"on this machine{size}")
        else:
            yield ReadinessCheck(
                "model", "missing", "its folder has no *.safetensors files", "set model.path"
            )
    elif files.location == "cache" and files.complete:
        yield ReadinessCheck("model", "ready", f"downloaded{size}")
    else:
        size_gb = config.model.download_gb
        total = "size unknown" if size_gb is None else format_size(1e9 * size_gb)
        text = "partly downloaded" if files.location == "cache" else "not downloaded yet"
        yield ReadinessCheck(
            "model", "note", f"{text} ({total})", f"hf download {config.model.path}"
        )
        if size_gb is not None:
            yield from _check_free_space(size_gb, hub_cache(), "the download")


def _check_key(config: Config, folder: Path) -> ReadinessCheck:
    judge = config.judge
    try:
        key = load_api_key(judge, dotenv_dir=folder)
    except IdaError as error:
        return ReadinessCheck("key", "missing", error.title, error.hint.splitlines()[0])
    if key is None:
        reason = "not needed by the offline heuristic" if judge.kind == "offline" else "not needed"
        return ReadinessCheck("key", "ready", reason)
    return ReadinessCheck("key", "ready", f"{judge.api_key_env} is set ({key_source(judge)})")


def _check_disk(config: Config) -> Iterator[ReadinessCheck]:
    output_dir = expand_home(config.output_dir)
    existing = _nearest_ancestor(output_dir, Path.exists)
    if not existing.is_dir():
        yield ReadinessCheck(
            "folder", "missing", f"{display_path(existing)} is not a folder", "set output_dir"
        )
        return
    if not os.access(existing, os.W_OK):
        yield ReadinessCheck(
            "folder", "missing", f"{display_path(existing)} is not writable",
            "make it writable, or set output_dir",
        )  # fmt: skip
        return
    free = _free_gb(existing)
    if free is not None and free < LOW_DISK_GB:
        yield ReadinessCheck(
            "disk", "note", f"only {format_size(1e9 * free)} free for the run", "set output_dir"
        )
    elif free is not None:
        yield ReadinessCheck("disk", "ready", f"{free:.0f} GB free in {display_path(output_dir)}")


def _check_free_space(needed: float, folder: Path, purpose: str) -> Iterator[ReadinessCheck]:
    free = _free_gb(_nearest_ancestor(folder, Path.is_dir))
    if free is not None and free < needed:
        yield ReadinessCheck(
            "disk", "missing", f"{free:.1f} GB free, but {purpose} needs {needed:.1f} GB",
            f"free up space in {display_path(folder)}, or set HF_HOME to another disk",
        )  # fmt: skip


def _nearest_ancestor(path: Path, accept: Callable[[Path], bool]) -> Path:
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
