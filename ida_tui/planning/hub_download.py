"""Download of a model of the Hugging Face Hub into the cache, with its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ida_tui.config.model_files import hub_cache, inspect_model
from ida_tui.config.schema import ModelConfig
from ida_tui.errors import IdaError
from ida_tui.events.narration import download_text
from ida_tui.events.values import DownloadProgress
from ida_tui.planning.hub_models import (
    HubModel,
    ask_hub,
    fetch_request,
    find_hub_model,
    needs_download,
    require_unpacked,
    switch_off_here,
)
from ida_tui.planning.readiness import free_gb, nearest_ancestor
from ida_tui.util.format import format_size
from ida_tui.util.paths import display_path

TEXT_INTERVAL_S = 10.0
"""Seconds between two lines of progress."""
RATE_WINDOW_S = 10.0
"""Seconds over which the rate of a download is measured."""


def fetch_small_files(
    model: ModelConfig, *, stop_requested: Callable[[], bool] = lambda: False
) -> None:
    """Download all files of a Hub model but its weights, if the model is not complete on this machine.

    Raises:
        IdaError: they cannot be downloaded, or the model's weights have another format.
    """
    if not needs_download(model):
        return
    found = find_hub_model(model, stop_requested=stop_requested)
    files = found.small_files(with_code=model.trust_remote_code)
    ask_hub(model, fetch_request(files), stop_requested=stop_requested)
    require_unpacked(model, found)


def fetch_weights(
    model: ModelConfig,
    *,
    on_progress: Callable[[DownloadProgress], object],
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Download the weights of a Hub model that are not on this machine; see `fetch_small_files`.

    Args:
        model: the model.
        on_progress: receives the progress, about twice a second, from the first byte to the last.
        stop_requested: asked several times a second; what has arrived is kept.
        clock: the time in seconds.

    Raises:
        IdaError: the disk has no room, the download failed, or a stop was requested (exit code 130).
    """
    if not needs_download(model):
        return
    found = find_hub_model(model, stop_requested=stop_requested)
    files = found.weight_files()
    total = sum(files.values())
    here = _bytes_here(model, found)
    _require_free_space(found, total - here)
    samples: list[tuple[float, int]] = []

    def report(done: int, received: int) -> None:
        now = clock()
        samples.append((now, received))
        while len(samples) > 2 and samples[0][0] < now - RATE_WINDOW_S:
            del samples[0]
        since, before = samples[0]
        rate = (received - before) / (now - since) if now > since else 0.0
        on_progress(DownloadProgress(min(done, total), total, rate))

    on_progress(DownloadProgress(min(here, total), total, 0.0))
    ask_hub(model, fetch_request(files), on_bytes=report, stop_requested=stop_requested)
    on_progress(DownloadProgress(total, total, 0.0))


def require_model_here(
    model: ModelConfig,
    on_text: Callable[[str], object],
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    uploads: bool = False,
) -> None:
    """Download a Hub model that is not on this machine, for a command other than a run.

    Args:
        model: the model.
        on_text: receives a line at the start, at the end and every few seconds.
        stop_requested: asked several times a second; true ends the download.
        uploads: whether this process uploads to the Hub later; otherwise its libraries ask the Hub nothing.

    Raises:
        IdaError: the model cannot be downloaded.
    """
    shown_at = -TEXT_INTERVAL_S
    started = time.monotonic()

    def report(progress: DownloadProgress) -> None:
        nonlocal shown_at
        elapsed = time.monotonic() - started
        if elapsed - shown_at >= TEXT_INTERVAL_S or progress.done == progress.total:
            shown_at = elapsed
            on_text(f"Downloading {model.path}: {download_text(progress)}")

    fetch_small_files(model, stop_requested=stop_requested)
    fetch_weights(model, on_progress=report, stop_requested=stop_requested)
    if not (uploads or model.trust_remote_code):  # its code may load more files
        switch_off_here()


def _bytes_here(model: ModelConfig, found: HubModel) -> int:
    """Bytes of the weight files that need no more space: whole files, and the parts of cut-off downloads."""
    folder = inspect_model(model).folder
    whole = [name for name in found.weight_files() if folder and (folder / name).exists()]
    blobs = hub_cache() / f"models--{model.path.replace('/', '--')}" / "blobs"
    parts = 0
    for part in blobs.glob("*.ida-tui.incomplete"):
        with suppress(FileNotFoundError):  # another process may complete it meanwhile
            parts += part.stat().st_size
    return sum(found.files[name] for name in whole) + parts


def _require_free_space(found: HubModel, needed: int) -> None:
    folder = hub_cache()
    free = free_gb(nearest_ancestor(folder, Path.is_dir))
    if free is not None and 1e9 * free < needed:
        raise IdaError(
            f"{found.path} needs {format_size(needed)} more on the disk, but only"
            f" {format_size(1e9 * free)} are free",
            f"free up space in {display_path(folder)}, or set HF_HOME to a folder on another disk",
        )
