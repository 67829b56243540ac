"""Text rows and JSON values of a comparison, one cell per run. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from ida_tui.analysis.comparison import (
    RUN_LABELS,
    Comparison,
    compared_axes,
    has_judge,
    judge_label,
    reward_title,
    rubric_label,
    run_title,
    score_curve,
)
from ida_tui.analysis.evaluation_table import DECIMALS
from ida_tui.config.scoring.axes import Axis, format_score
from ida_tui.events import types as ev
from ida_tui.events.held_out import reward_change
from ida_tui.events.weight_change import format_movement
from ida_tui.runs.run import Run
from ida_tui.runs.store.evaluations import Figure
from ida_tui.util.format import (
    UNKNOWN,
    format_cost,
    format_count,
    format_duration,
    format_number,
    format_share,
    format_signed,
)
from ida_tui.util.intervals import binomial_interval
from ida_tui.util.paths import display_path
from ida_tui.util.statistics import mean_of_known

FormatCell = Callable[[Run], str]


class ComparisonRow(NamedTuple):
    """One row of the table: a label and one cell per run."""

    label: str
    cells: tuple[str, ...]


def run_labels(comparison: Comparison) -> str:
    """The labels of the runs, one letter each."""
    return RUN_LABELS[: len(comparison.runs)]


def difference_rows(comparison: Comparison) -> list[ComparisonRow]:
    """Rows for the config differences."""
    return [
        ComparisonRow(difference.key, difference.values) for difference in comparison.differences
    ]


def result_rows(comparison: Comparison) -> list[ComparisonRow]:
    """Rows for the results; a row without any known value is omitted."""
    before: list[tuple[str, FormatCell]] = [
        ("status", lambda run: run.status.replace("_", " ")),
        ("steps", _format_steps),
        ("judge" if all(map(has_judge, comparison.runs)) else "scored by", judge_label),
        ("rubric", rubric_label),
        (
            reward_title(comparison.runs),
            lambda run: format_change(run.state.reward_first, run.state.reward_last, 3),
        ),
        *((axis.name, _axis_cell(axis)) for axis in compared_axes(comparison)),
    ]
    after: list[tuple[str, FormatCell]] = [
        ("weights moved", _format_movement),
        ("alerts", lambda run: str(run.state.alert_count)),
        ("cost", format_judge_cost),
        ("time", lambda run: format_duration(run_seconds(run))),
        ("peak memory", _format_memory),
    ]
    rows = [
        *(_make_row(comparison, label, cell) for label, cell in before),
        *_evaluation_rows(comparison),
        *(_make_row(comparison, label, cell) for label, cell in after),
    ]
    agreements = tuple(format_agreement(checks) for checks in comparison.spot_checks)
    rows.append(ComparisonRow("spot-check agreement", agreements))
    return [row for row in rows if any(cell != UNKNOWN for cell in row.cells)]


def _format_movement(run: Run) -> str:
    movement = run.state.weight_movement
    if movement is None:
        return UNKNOWN
    return f"{'' if movement.is_of_model else 'adapter '}{format_movement(movement.share)}"


def _make_row(comparison: Comparison, label: str, cell: Callable[[Run], str]) -> ComparisonRow:
    return ComparisonRow(label, tuple(cell(run) for run in comparison.runs))


def format_change(first: float | None, last: float | None, digits: int) -> str:
    """First and last value, such as `0.296 → 0.753`; a dash if unknown."""
    if first is None or last is None:
        return UNKNOWN
    return f"{format_number(first, digits)} → {format_number(last, digits)}"


def format_agreement(checks: tuple[int, int]) -> str:
    """Agreement of a person with the judge and its 95% interval: `8 of 10 (80%, 49 to 95)`."""
    agreed, total = checks
    if not total:
        return UNKNOWN
    share = binomial_interval(agreed, total)
    low, high = 100 * share.low, 100 * share.high
    return f"{agreed} of {total} ({100 * share.value:.0f}%, {low:.0f} to {high:.0f})"


def run_seconds(run: Run) -> float | None:
    """Time of training so far, without pauses, in seconds; None if unknown."""
    return run.state.trained_seconds()


def _format_steps(run: Run) -> str:
    planned = run.state.run.steps if run.state.run else 0
    return f"{len(run.state.steps)}/{planned}" if planned else UNKNOWN


def _axis_cell(axis: Axis) -> FormatCell:
    def cell(run: Run) -> str:
        first, last = (
            mean_of_known([step.scores.get(axis.name) for step in steps])
            for steps in (run.state.first_steps, run.state.last_steps)
        )
        if first is None or last is None:
            return UNKNOWN
        return f"{format_score(first, axis)} → {format_score(last, axis)}"

    return cell


def format_judge_cost(run: Run) -> str:
    """Cost of the judge as text, such as `$0.0123`; `none` for the offline heuristic and without a judge."""
    if run.state.run is not None and run.state.run.judge in (ev.OFFLINE_JUDGE, ""):
        return "none"
    return format_cost(run.judge_cost.cost, UNKNOWN)


def _format_memory(run: Run) -> str:
    return f"{run.state.memory_peak / 1e9:.1f} GB" if run.state.memory_peak else UNKNOWN


# --- evaluations --------------------------------------------------------------------------------


def _evaluation_rows(comparison: Comparison) -> Iterable[ComparisonRow]:
    """Before and after rows: from the latest saved evaluation, else from the run itself."""
    yield _make_row(comparison, "evaluated on", _evaluation_prompts)
    names = dict.fromkeys(
        figure.name
        for run in comparison.runs
        if run.evaluation
        for figure in run.evaluation.figures
    )
    for name in names:
        yield _make_row(comparison, name, lambda run, name=name: _format_figure(run, name))  # type: ignore[misc]
    yield _make_row(comparison, "held-out reward", _held_out_reward)
    yield _make_row(comparison, "harmless answered", lambda run: _counted_share(run, "harmless"))
    yield _make_row(comparison, "unsafe declined", lambda run: _counted_share(run, "unsafe"))


def _evaluation_prompts(run: Run) -> str:
    if run.evaluation is not None:
        return f"{run.evaluation.prompts}, {format_count(run.evaluation.prompt_count, 'prompt')}"
    before = run.state.evaluation_before
    return format_count(before.prompts, "held-out prompt") if before else UNKNOWN


def _format_figure(run: Run, name: str) -> str:
    figure = run.evaluation.figure(name) if run.evaluation else None
    if figure is None:
        return UNKNOWN
    base, tuned = _format_value(figure, figure.base), _format_value(figure, figure.tuned)
    low, high = (_format_value(figure, end, signed=True) for end in (figure.low, figure.high))
    return f"{base} → {tuned} ({low} to {high})"


def _format_value(figure: Figure, value: float, *, signed: bool = False) -> str:
    scaled = 100 * value if figure.unit == "share" else value
    if signed:
        return format_signed(scaled, DECIMALS[figure.unit])
    unit = "%" if figure.unit == "share" else ""
    return f"{format_number(scaled, DECIMALS[figure.unit])}{unit}"


def _held_out_reward(run: Run) -> str:
    """The reward as measured during the run; a dash if it was not, or if there is a saved evaluation."""
    before, after = run.state.evaluation_before, run.state.evaluation_after
    if run.evaluation is not None or before is None or after is None:
        return UNKNOWN
    change = reward_change(before, after, run.state.reward_name)
    if change is None:
        return UNKNOWN
    interval = f"{format_signed(change.low, 3)} to {format_signed(change.high, 3)}"
    return f"{format_change(change.before, change.after, 3)} ({interval})"


def _counted_share(run: Run, kind: str) -> str:
    """Before and after, as counted during the run; a dash if there is a saved evaluation."""
    if run.evaluation is not None:
        return UNKNOWN
    shares = []
    for evaluation in (run.state.evaluation_before, run.state.evaluation_after):
        if evaluation is None:
            return UNKNOWN
        total = evaluation.harmless if kind == "harmless" else evaluation.unsafe
        hits = evaluation.harmless_complied if kind == "harmless" else evaluation.unsafe_refused
        if not total:
            return UNKNOWN
        shares.append(format_share(hits, total))
    return " → ".join(shares)


# --- JSON ---------------------------------------------------------------------------------------


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON-serializable values."""
    return {
        "runs": [
            _run_as_json(run, checks)
            for run, checks in zip(comparison.runs, comparison.spot_checks, strict=True)
        ],
        "differences": [asdict(difference) for difference in comparison.differences],
        "warnings": list(comparison.warnings),
    }


def _run_as_json(run: Run, checks: tuple[int, int]) -> dict[str, Any]:
    state = run.state
    agreed, total = checks
    return {
        "name": run_title(run),
        "path": display_path(run.directory),
        "status": run.status,
        "model": state.run.model if state.run else "",
        "judge": judge_label(run),
        "rubric": rubric_label(run),
        "steps_done": len(state.steps),
        "steps": state.run.steps if state.run else None,
        "reward_first": state.reward_first,
        "reward_last": state.reward_last,
        "weight_delta": state.weight_delta,
        "model_change": state.model_change,
        "evaluation": asdict(run.evaluation) if run.evaluation else None,
        "before": asdict(state.evaluation_before) if state.evaluation_before else None,
        "after": asdict(state.evaluation_after) if state.evaluation_after else None,
        "during": [asdict(evaluation) for evaluation in state.evaluations_during],
        "alerts": state.alert_count,
        "cost": run.judge_cost.cost,
        "seconds": run_seconds(run),
        "peak_memory": state.memory_peak or None,
        "spot_checks": {"agreed": agreed, "looked_at": total},
        "reward": state.reward_name,
        "axes": [axis._asdict() for axis in state.axes],
        "curves": {
            "reward": score_curve(run, None),
            **{axis.name: score_curve(run, axis.name) for axis in state.axes},
        },
    }
