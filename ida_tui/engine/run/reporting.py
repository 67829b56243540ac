"""Report at the end of a training run, if its profile enables it. A failure only logs a warning."""

from __future__ import annotations

from ida_tui.engine.run.context import UnderWay
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.util.paths import shown_path


def report(run: UnderWay, ended: ev.RunEnded) -> None:
    """Write the report of a finished run, before its last event, and log its path or why it failed.

    Args:
        run: the run.
        ended: the run's last event, not yet written.
    """
    if not run.config.report or ended.status != "done":
        return
    try:
        from ida_tui.analysis.report.write import write

        written = write(run.directory, ended=ended)
    except IdaError as error:
        _failed(run, error.title)
    except Exception as error:
        # No error of the report may fail a run whose weights are saved.
        _failed(run, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        text = f"Report: {shown_path(written.html)}"
        run.emit(ev.Noticed(level="info", source="report", text=text))


def _failed(run: UnderWay, why: str) -> None:
    text = (
        f"could not write the report: {why}; try again with ida-tui report"
        f" {shown_path(run.directory.path)}"
    )
    run.emit(ev.Noticed(level="warning", source="report", text=text))
