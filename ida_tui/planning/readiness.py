"""Readiness checks before a run: device, model, API key, disk space, output folder, receivers of messages.

They use neither torch nor the network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ida_tui.config.checks import check_config
from ida_tui.config.devices import guess_device
from ida_tui.config.model_files import hub_cache, inspect_model, model_problem
from ida_tui.config.schema import Config
from ida_tui.errors import IdaError
from ida_tui.events.notifications.channels import open_channels
from ida_tui.judge.api_key import load_api_key
from ida_tui.planning.preview import choose_planned_device, key_source
from ida_tui.util.finding import Finding
from ida_tui.util.format import format_size
from ida_tui.util.paths import cache_folder, display_path, expand_home

LOW_DISK_GB = 2.0
"""Free disk space, in GB, below which a note appears; only a full-model checkpoint is large."""


def check_readiness(config: Config, *, folder: Path) -> list[Finding]:
    """All readiness checks for a run of this experiment; it cannot start if one of them is an error.

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
        *_check_receivers(config),
    ]


def _check_profile(config: Config) -> Iterator[Finding]:
    findings = check_config(config)
    errors = [f for f in findings if f.severity == "error"]
    if not errors:
        yield Finding("good", "profile", "valid")
    for finding in errors:
        yield Finding("error", "profile", f"{finding.about}: {finding.text}", finding.fix)
    for finding in findings:
        if finding.severity == "note":
            yield Finding("note", "profile", finding.text, finding.fix)


def _check_device(config: Config) -> Finding:
    likely = guess_device()
    if config.device not in ("auto", "cpu", likely):
        return Finding(
            "error",
            "device",
            f"this machine has no {config.device} device",
            "set device to auto or cpu",
        )
    planned, _ = choose_planned_device(config)
    if config.device == "auto" and planned != likely:
        return Finding(
            "note",
            "device",
            f"{likely} on this machine; the profile is made for {planned}",
            "use model=embedded, or the experiment quickstart",
        )
    return Finding("good", "device", likely if config.device == "auto" else config.device)


def _check_model(config: Config) -> Iterator[Finding]:
    problem = model_problem(config.model)
    if problem is not None:
        yield Finding("error", "model", *problem)
        return
    files = inspect_model(config.model)
    size = "" if files.size_gb is None else f", {format_size(1e9 * files.size_gb)}"
    if files.location == "embedded":
        if files.complete:
            yield Finding("good", "model", f"included with ida-tui{size}")
        else:
            yield Finding(
                "error",
                "model",
                "the model files that come with ida-tui are missing",
                "reinstall ida-tui",
            )
    elif files.location == "folder":
        if files.complete:
            yield Finding("good", "model", f"on this machine{size}")
        else:
            yield Finding(
                "error",
                "model",
                "the model folder has no *.safetensors files",
                "set model.path to a complete folder",
            )
    elif files.gguf is not None:
        yield Finding("good", "model", f"on this machine, {files.gguf.quantization}{size}")
        if files.folder is None:
            needed = files.gguf.unpacked_bytes / 1e9
            yield from _check_free_space(
                needed, cache_folder(), "the unpacked model", "IDA_TUI_CACHE_DIR"
            )
    elif files.location == "cache" and files.complete:
        yield Finding("good", "model", f"downloaded{size}")
    else:
        size_gb = config.model.download_gb
        total = "size unknown" if size_gb is None else format_size(1e9 * size_gb)
        text = "partly downloaded" if files.location == "cache" else "not downloaded yet"
        yield Finding("note", "model", f"{text} ({total})", f"hf download {config.model.path}")
        if size_gb is not None:
            yield from _check_free_space(size_gb, hub_cache(), "the download", "HF_HOME")


def _check_key(config: Config, folder: Path) -> Finding:
    judge = config.judge
    try:
        keys = load_api_key(judge, dotenv_dir=folder)
    except IdaError as error:
        return Finding("error", "key", error.title, error.hint.splitlines()[0])
    if not config.rubric.judged_axes:
        return Finding("good", "key", "not needed: functions compute all scores")
    found = keys if isinstance(keys, tuple) else (keys,)
    used = [member for member, key in zip(judge.members, found, strict=True) if key is not None]
    if not used:
        reason = "not needed by the offline heuristic" if judge.kind == "offline" else "not needed"
        return Finding("good", "key", reason)
    texts = [f"{member.api_key_env} is set ({key_source(member)})" for member in used]
    return Finding("good", "key", ", ".join(dict.fromkeys(texts)))


def _check_disk(config: Config) -> Iterator[Finding]:
    output_dir = expand_home(config.output_dir)
    existing = nearest_ancestor(output_dir, Path.exists)
    if not existing.is_dir():
        yield Finding(
            "error",
            "folder",
            f"{display_path(existing)} is not a folder",
            "set output_dir to another folder",
        )
        return
    if not os.access(existing, os.W_OK):
        yield Finding(
            "error",
            "folder",
            f"{display_path(existing)} is not writable",
            "make the folder writable, or set output_dir to another folder",
        )
        return
    free = free_gb(existing)
    if free is not None and free < LOW_DISK_GB:
        yield Finding(
            "note",
            "disk",
            f"only {format_size(1e9 * free)} free for the run",
            "set output_dir to another folder",
        )
    elif free is not None:
        yield Finding("good", "disk", f"{free:.0f} GB free in {display_path(output_dir)}")


def _check_receivers(config: Config) -> Iterator[Finding]:
    if not config.notify.sends_messages:
        return
    try:
        channels, _ = open_channels(config.notify)
    except IdaError as error:
        yield Finding("error", "notify", error.title, error.hint.splitlines()[0])
        return
    names = ", ".join(channel.name for channel in channels)
    yield Finding("good", "notify", f"{names} on {', '.join(config.notify.events)}")


def _check_free_space(
    needed: float, folder: Path, purpose: str, variable: str
) -> Iterator[Finding]:
    free = free_gb(nearest_ancestor(folder, Path.is_dir))
    if free is not None and free < needed:
        yield Finding(
            "error",
            "disk",
            f"{free:.1f} GB free, but {purpose} needs {needed:.1f} GB",
            f"free up space in {display_path(folder)}, or set {variable} to another disk",
        )


def nearest_ancestor(path: Path, accept: Callable[[Path], bool]) -> Path:
    """The path or its nearest ancestor that is accepted; the root if none is."""
    path = path.absolute()
    for candidate in (path, *path.parents):
        try:
            if accept(candidate):
                return candidate
        except OSError:
            continue
    return Path("/")


def free_gb(folder: Path) -> float | None:
    """Free disk space for a folder, in GB (10^9 bytes); None if it is unknown."""
    try:
        return shutil.disk_usage(folder).free / 1e9
    except OSError:
        return None
