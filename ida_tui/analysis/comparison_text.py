"""A comparison as rows of words, one cell a run, and as plain values for JSON. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

from ida_tui.analysis.comparison import CURVES, LETTERS, Compared, Comparison
from ida_tui.events import types as ev
from ida_tui.runs.store.evaluations import Figure
from ida_tui.util.paths import shown_path
from ida_tui.util.statistics import mean_of, wilson

UNKNOWN = "–"
AXES = ("align", "risk", "detail")


class Row(NamedTuple):
    """One figure of every run."""

    label: str
    cells: tuple[str, ...]


def letters(comparison: Comparison) -> str:
    """What the runs are called, one letter each."""
    return LETTERS[: len(comparison.runs)]


def difference_rows(comparison: Comparison) -> list[Row]:
    """What differs in the profiles."""
    return [Row(difference.key, difference.values) for difference in comparison.differences]


def figure_rows(comparison: Comparison) -> list[Row]:
    """What became of the runs; a row that no run has a figure for is left out."""
    rows = [
        _row(comparison, label, cell)
        for label, cell in (
            ("status", lambda run: run.summary.status.replace("_", " ")),
            ("steps", _steps),
            ("judge", lambda run: run.judge),
            ("rubric", lambda run: run.rubric),
            ("R_IDA", lambda run: change(run.state.r_ida_first, run.state.r_ida_last, 3)),
            *((axis, _axis(axis)) for axis in AXES),
        )
    ]
    rows += _evaluated(comparison)
    rows += [
        _row(comparison, label, cell)
        for label, cell in (
            ("weights moved", lambda run: f"{100 * run.state.weight_delta:.2f} %"),
            ("alerts", lambda run: str(run.state.alerted)),
            ("cost", priced),
            ("time", lambda run: duration(seconds(run))),
            ("peak memory", _memory),
            ("scores agreed with", lambda run: agreed(run.checks)),
        )
    ]
    return [row for row in rows if any(cell != UNKNOWN for cell in row.cells)]


def _row(comparison: Comparison, label: str, cell: Callable[[Compared], str]) -> Row:
    return Row(label, tuple(cell(run) for run in comparison.runs))


def change(first: float | None, last: float | None, digits: int) -> str:
    """``0.296 → 0.753``, or a dash."""
    if first is None or last is None:
        return UNKNOWN
    return f"{first:.{digits}f} → {last:.{digits}f}"


def agreed(checks: tuple[int, int]) -> str:
    """``8 of 10 (80 %, 49 to 94)``: how often a person agreed with the judge, with its interval."""
    hits, of = checks
    if not of:
        return UNKNOWN
    share = wilson(hits, of)
    low, high = 100 * share.low, 100 * share.high
    return f"{hits} of {of} ({100 * share.value:.0f} %, {low:.0f} to {high:.0f})"


def seconds(run: Compared) -> float | None:
    """How long it took, or has taken; None where that is not known."""
    state = run.state
    if state.ended is not None:
        return state.ended.seconds
    try:
        began, now = map(datetime.fromisoformat, (state.started_at, state.updated_at))
    except ValueError:
        return None
    return (now - began).total_seconds()


def cost(run: Compared) -> float | None:
    """US dollars; None where that is not known."""
    return run.state.ended.cost if run.state.ended is not None else run.state.judge.cost


def _steps(run: Compared) -> str:
    planned = run.state.run.steps if run.state.run else 0
    return f"{len(run.state.steps)}/{planned}" if planned else UNKNOWN


def _axis(name: str) -> Callable[[Compared], str]:
    def cell(run: Compared) -> str:
        first, last = (
            mean_of([getattr(step, name) for step in steps])
            for steps in (run.state.first_steps, run.state.last_steps)
        )
        return change(first, last, 1)

    return cell


def priced(run: Compared) -> str:
    """What the judge cost, such as ``$0.0123``; ``none`` where nobody was asked."""
    if run.state.run is not None and run.state.run.judge == ev.OFFLINE_JUDGE:
        return "none"
    known = cost(run)
    return UNKNOWN if known is None else f"${known:.4f}"


def duration(length: float | None) -> str:
    """Seconds as ``58 s``, ``4 min 07 s`` or ``2 h 05 min``; a dash where they are not known."""
    if length is None:
        return UNKNOWN
    minutes, rest = divmod(round(length), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _memory(run: Compared) -> str:
    return f"{run.state.memory_peak / 1e9:.1f} GB" if run.state.memory_peak else UNKNOWN


# --- evaluations --------------------------------------------------------------------------------


def _evaluated(comparison: Comparison) -> Iterable[Row]:
    """Before and after: of the newest evaluation that was kept, else of the run's own."""
    yield _row(comparison, "evaluated on", _evaluated_on)
    names = dict.fromkeys(
        figure.name
        for run in comparison.runs
        if run.evaluation
        for figure in run.evaluation.figures
    )
    for name in names:
        yield _row(comparison, name, lambda run, name=name: _figure(run, name))  # type: ignore[misc]
    yield _row(comparison, "harmless answered", lambda run: _counted(run, "harmless"))
    yield _row(comparison, "unsafe declined", lambda run: _counted(run, "unsafe"))


def _evaluated_on(run: Compared) -> str:
    if run.evaluation is not None:
        return (
            f"{run.evaluation.prompts}, {run.evaluation.harmless + run.evaluation.unsafe} prompts"
        )
    before = run.state.before
    return f"{before.prompts} held-out prompts" if before else UNKNOWN


def _figure(run: Compared, name: str) -> str:
    figure = run.evaluation.figure(name) if run.evaluation else None
    if figure is None:
        return UNKNOWN
    base, tuned = _measure(figure, figure.base), _measure(figure, figure.tuned)
    low, high = (_measure(figure, end, signed=True) for end in (figure.low, figure.high))
    return f"{base} → {tuned} ({low} to {high})"


def _measure(figure: Figure, value: float, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if figure.unit == "share":
        return f"{100 * value:{sign}.0f}{'' if signed else ' %'}"
    digits = {"points": 1, "reward": 3, "tokens": 0}[figure.unit]
    return f"{value:{sign}.{digits}f}"


def _counted(run: Compared, kind: str) -> str:
    """What a run without a kept evaluation counted by itself, before and after."""
    if run.evaluation is not None:
        return UNKNOWN
    shares = []
    for counted in (run.state.before, run.state.after):
        if counted is None:
            return UNKNOWN
        of = counted.harmless if kind == "harmless" else counted.unsafe
        hits = counted.harmless_complied if kind == "harmless" else counted.unsafe_refused
        if not of:
            return UNKNOWN
        shares.append(f"{100 * hits / of:.0f} %")
    return " → ".join(shares)


# --- JSON ---------------------------------------------------------------------------------------


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return {
        "runs": [_run(run) for run in comparison.runs],
        "differences": [asdict(difference) for difference in comparison.differences],
        "warnings": list(comparison.warnings),
    }


def _run(run: Compared) -> dict[str, Any]:
    state = run.state
    agreed_with, looked_at = run.checks
    evaluation = None
    if run.evaluation is not None:
        evaluation = asdict(run.evaluation)
    return {
        "name": run.name,
        "path": shown_path(run.directory.path),
        "status": run.summary.status,
        "model": run.summary.model,
        "judge": run.judge,
        "rubric": run.rubric,
        "steps_done": len(state.steps),
        "steps": state.run.steps if state.run else None,
        "r_ida_first": state.r_ida_first,
        "r_ida_last": state.r_ida_last,
        "weight_delta": state.weight_delta,
        "evaluation": evaluation,
        "before": asdict(state.before) if state.before else None,
        "after": asdict(state.after) if state.after else None,
        "alerts": state.alerted,
        "cost": cost(run),
        "seconds": seconds(run),
        "peak_memory": state.memory_peak or None,
        "spot_checks": {"agreed": agreed_with, "looked_at": looked_at},
        "curves": {name: list(run.curve(name)) for name in CURVES},
    }
