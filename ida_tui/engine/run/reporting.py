"""Report at the end of a training run, if its profile enables it. A failure only logs a warning."""

from __future__ import annotations

from ida_tui.engine.run.context import RunContext
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.util.paths import display_path


def write_report(run: RunContext, ended: ev.RunEnded) -> None:
    """Write the report of a finished run, before its last event, and log its path or why it failed.

    Args:
        run: the run.
        ended: the run's last event, not yet written.
    """
    if not run.config.report or ended.status != "done":
        return
    try:
        from ida_tui.analysis.report.write import write_report

        written = write_report(run.directory, ended=ended)
    except IdaError as error:
        _warn_not_written(run, error.title)
    except Exception as error:
        # No error of the report may fail a run whose weights are saved.
        _warn_not_written(run, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        text = f"Report: {display_path(written.html)}"
        run.emit(ev.Noticed(level="info", source="report", text=text))


def _warn_not_written(run: RunContext, reason: str) -> None:
    text = (
        f"could not write the report: {reason}; try again with ida-tui report"
        f" {display_path(run.directory.path)}"
    )
    run.emit(ev.Noticed(level="warning", source="report", text=text))
