"""Download of a run's model, as events."""

from __future__ import annotations

import time

from ida_tui.engine.run.context import RunContext
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.events.narration import download_text
from ida_tui.planning.hub_download import fetch_weights
from ida_tui.util.format import format_duration, format_size

EVENT_INTERVAL_S = 1.0
NOTICE_INTERVAL_S = 60.0
"""Seconds between two lines in the log."""


def download_weights(run: RunContext) -> None:
    """Download the weights of the run's model, unless they are on this machine.

    Raises:
        RunInterrupted: the run is to stop; what has arrived is kept.
        IdaError: the download failed.
    """
    name, started = run.config.model.path, time.monotonic()
    event_at = notice_at = -NOTICE_INTERVAL_S
    total = 0

    def notice(text: str) -> None:
        run.emit(ev.Noticed(level="info", source="download", text=text))

    def report(progress: ev.DownloadProgress) -> None:
        nonlocal event_at, notice_at, total
        elapsed = time.monotonic() - started
        if not total:
            total = progress.total
            notice(f"Downloading {name} ({format_size(total)})")
            notice_at = elapsed
        if elapsed - event_at >= EVENT_INTERVAL_S or progress.done == total:
            event_at = elapsed
            run.emit(ev.PhaseChanged(step=run.last_step, phase="load", download=progress))
        if elapsed - notice_at >= NOTICE_INTERVAL_S:
            notice_at = elapsed
            notice(f"Downloading {name}: {download_text(progress)}")

    try:
        fetch_weights(
            run.config.model,
            on_progress=report,
            stop_requested=run.control.stop.is_set,
        )
    except IdaError as error:
        run.raise_if_stopped()
        resume = f"then: ida-tui resume {run.directory.path}"
        raise IdaError(error.title, f"{error.hint}\n{resume}", code=error.code) from None
    if total:
        notice(
            f"Downloaded {name} ({format_size(total)} in {format_duration(time.monotonic() - started)})"
        )
        run.emit(ev.PhaseChanged(step=run.last_step, phase="load"))
