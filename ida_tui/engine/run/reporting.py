"""The report that closes a run, where its profile asks for one. It never harms the run."""

from __future__ import annotations

from ida_tui.engine.run.context import UnderWay
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.util.paths import shown_path


def report(run: UnderWay, ended: ev.RunEnded) -> None:
    """Write the report of a run that is done, after everything but its last event; say where, or why not.

    Args:
        run: the run.
        ended: its last event, not yet written.
    """
    if not run.config.report or ended.status != "done":
        return
    try:
        from ida_tui.analysis.report.write import write

        written = write(run.directory, ended=ended)
    except IdaError as error:
        _failed(run, error.title)
    except Exception as error:
        # Whatever it is, the weights are saved and the run is done.
        _failed(run, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        text = f"Report: {shown_path(written.html)}"
        run.emit(ev.Noticed(level="info", source="report", text=text))


def _failed(run: UnderWay, why: str) -> None:
    text = (
        f"no report was written: {why}; ida-tui report {shown_path(run.directory.path)} tries again"
    )
    run.emit(ev.Noticed(level="warning", source="report", text=text))
