"""Plots of a report, each with a title and a caption."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ida_tui.analysis.report import plots as drawing
from ida_tui.analysis.report.load import Facts
from ida_tui.analysis.report.plots import (
    INK,
    LINES,
    QUIET,
    Values,
    draw,
    legend,
    over_steps,
    thinned,
)
from ida_tui.analysis.report.tables import first_alert
from ida_tui.events import types as ev

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TREND = 5
"""Window, in steps, of the running mean of the reward."""
PHASES: Sequence[ev.Phase] = (
    "generate",
    "judge",
    "reference",
    "update",
    "save",
    "evaluate",
    "load",
)


class Picture(NamedTuple):
    """One plot of the page."""

    title: str
    caption: str
    svg: str
    """Inline SVG; empty if there is nothing to draw, with the reason in the caption."""


class _Curves(NamedTuple):
    """The finished steps and their numbers."""

    facts: Facts
    steps: list[ev.StepFinished]
    xs: list[float]

    @property
    def each(self) -> int:
        """Number of steps per point."""
        return thinned(self.xs, self.xs).each

    def values(self, get_value: Callable[[ev.StepFinished], float | None]) -> list[float | None]:
        """One metric of every step; missing and non-finite values are None."""
        values = [get_value(step) for step in self.steps]
        return [v if v is not None and math.isfinite(v) else None for v in values]


def pictures(facts: Facts) -> list[Picture]:
    """The plots in page order; empty for a run without finished steps."""
    steps = list(facts.run.state.steps)
    if not steps:
        return []
    curves = _Curves(facts, steps, [float(step.step) for step in steps])
    plotters = (_reward, _axes, _lengths, _policy, _weights, _signal, _time, _memory, _latency)
    return [picture for plotter in plotters for picture in plotter(curves)]


def _reward(curves: _Curves) -> Iterator[Picture]:
    values = curves.values(lambda step: step.r_ida)
    points = thinned(curves.xs, values)
    with drawing.picture() as (figure, (axes,)):
        draw(axes, points, 0, "each step" if points.each == 1 else f"mean of {points.each} steps",
             width=0.9, alpha=0.75)  # fmt: skip
        if points.each == 1 and len(values) > TREND:
            trend = [_mean(values[max(0, n - TREND + 1) : n + 1]) for n in range(len(values))]
            line = thinned(curves.xs, trend)
            axes.plot(line.steps, line.values, color=INK, linewidth=2, label=f"mean of {TREND}")
        _finish(axes, curves.xs, 0, 1)
        alert_note = _alerts(axes, curves)
        summary = f"first step → last step: {_from_to(values, 3)}"
        yield _picture(figure, "R_IDA", summary, alert_note, points.each)


def _alerts(axes: Axes, curves: _Curves) -> str:
    """Mark the steps of the alerts with their numbers; returns the caption for the marks."""
    numbers_by_step: dict[int, list[int]] = {}
    state = curves.facts.run.state
    for number, alert in enumerate(state.alerts, start=first_alert(state)):
        numbers_by_step.setdefault(alert.step, []).append(number)
    low, high = curves.xs[0], curves.xs[-1]
    last_labeled = -math.inf
    for step, numbers in sorted(numbers_by_step.items()):
        x = min(max(float(step), low), high)
        axes.axvline(x, color=LINES[1], linewidth=1, linestyle="--")
        # Omit numbers that would overlap; the alert list has all of them.
        if x - last_labeled >= (high - low) * 0.05:
            label = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
            axes.annotate(
                label, (x, 1.0), (3, 0), textcoords="offset points", color=LINES[1],
                fontweight="bold", va="top", fontsize=9,
            )  # fmt: skip
            last_labeled = x
    return "Vertical lines mark the numbered alerts below." if numbers_by_step else ""


def _axes(curves: _Curves) -> Iterator[Picture]:
    values_by_axis = {
        "align": curves.values(lambda step: step.align),
        "risk": curves.values(lambda step: step.risk),
        "detail": curves.values(lambda step: step.detail),
    }
    with drawing.picture() as (figure, (axes,)):
        for number, (name, values) in enumerate(values_by_axis.items()):
            draw(axes, thinned(curves.xs, values), number, name)
        _finish(axes, curves.xs, 0, 10)
        summary = "; ".join(
            f"{name} {_from_to(values, 1)}" for name, values in values_by_axis.items()
        )
        yield _picture(figure, "The three axes", summary, "risk: 10 = safest.", curves.each)


def _lengths(curves: _Curves) -> Iterator[Picture]:
    mean = curves.values(lambda s: s.lengths[0] if s.lengths else None)
    if _nothing(mean):
        return
    low = thinned(curves.xs, curves.values(lambda s: s.lengths[1] if s.lengths else None))
    high = thinned(curves.xs, curves.values(lambda s: s.lengths[2] if s.lengths else None))
    truncated = curves.values(lambda s: None if s.truncated is None else 100 * s.truncated)
    with drawing.picture((2, 1)) as (figure, (above, below)):
        points = thinned(curves.xs, mean)
        above.fill_between(
            low.steps, low.values, high.values, color=LINES[0], alpha=0.15, linewidth=0,
            label="shortest to longest",
        )  # fmt: skip
        draw(above, points, 0, "mean, in tokens")
        above.set_ylim(bottom=0)
        legend(above)
        draw(below, thinned(curves.xs, truncated), 1, "truncated, %")
        _finish(below, curves.xs, 0, _up_to(truncated))
        summary = f"mean {_from_to(mean, 0)} tokens; truncated {_from_to(truncated, 0)}%"
        yield _picture(figure, "Length and truncation", summary, "", points.each)


def _policy(curves: _Curves) -> Iterator[Picture]:
    kl, entropy = curves.values(lambda s: s.kl), curves.values(lambda s: s.entropy)
    if _nothing(kl) and _nothing(entropy):
        return
    both = (("KL to the reference, nats", kl), ("entropy, nats", entropy))
    panels = [(name, values) for name, values in both if not _nothing(values)]
    missing = (
        "KL was not measured, because a run without a KL penalty (beta 0) has no reference model."
    )
    yield _stacked(
        curves, "KL and entropy" if not _nothing(kl) else "Entropy", panels,
        missing if _nothing(kl) else "",
    )  # fmt: skip


def _weights(curves: _Curves) -> Iterator[Picture]:
    norm = curves.values(lambda s: s.grad_norm)
    moved = curves.values(lambda s: 100 * s.weight_delta)
    panels = [("weights moved, % (relative L2 norm)", moved)]
    if not _nothing(norm):
        panels.insert(0, ("gradient norm", norm))
    skipped = sum(step.skipped for step in curves.steps)
    notes = []
    if _nothing(norm):
        notes.append("The gradient norm was not measured.")
    if skipped:
        notes.append(f"The gradient scaler skipped {skipped} of {len(curves.steps)} steps.")
    yield _stacked(curves, "Gradient and weights", panels, " ".join(notes))


def _signal(curves: _Curves) -> Iterator[Picture]:
    zero_variance = curves.values(lambda s: None if s.zero_std is None else 100 * s.zero_std)
    unscored = curves.values(
        lambda s: 100 * (s.completions - s.scored) / s.completions if s.completions else None
    )
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, zero_variance)
        draw(axes, points, 0, "zero-variance groups, %")
        draw(axes, thinned(curves.xs, unscored), 1, "failed verdicts, %")
        _finish(axes, curves.xs, 0, max(_up_to(zero_variance), _up_to(unscored)), columns=1)
        summary = (
            f"zero-variance groups {_from_to(zero_variance, 0)}%;"
            f" failed verdicts {_from_to(unscored, 0)}%"
        )
        yield _picture(
            figure, "Training signal", summary,
            "A zero-variance group, in which all rewards are equal, gives no training signal.", points.each,
        )  # fmt: skip


def _time(curves: _Curves) -> Iterator[Picture]:
    rows = {
        phase: thinned(curves.xs, [step.seconds.get(phase, 0.0) for step in curves.steps])
        for phase in PHASES
        if any(step.seconds.get(phase) for step in curves.steps)
    }
    if not rows:
        return
    steps_per_point = next(iter(rows.values())).each
    with drawing.picture() as (figure, (axes,)):
        axes.stackplot(
            next(iter(rows.values())).steps, *(row.values for row in rows.values()),
            labels=list(rows), colors=LINES[: len(rows)], alpha=0.8, linewidth=0,
        )  # fmt: skip
        _finish(axes, curves.xs, 0, None)
        axes.set_ylabel("seconds")
        totals = {name: sum(step.seconds.get(name, 0.0) for step in curves.steps) for name in rows}
        summary = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in totals.items())
        yield _picture(
            figure,
            "Time of a step, by phase",
            f"total over all steps: {summary}",
            "",
            steps_per_point,
        )


def _memory(curves: _Curves) -> Iterator[Picture]:
    peaks = curves.facts.moments.memory
    values: list[float | None] = [
        peaks[step.step] / 1e9 if peaks.get(step.step) else None for step in curves.steps
    ]
    if _nothing(values):
        yield Picture("Memory", "No memory was sampled during the steps.", "")
        return
    run = curves.facts.run.state.run
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, values, highest=True)
        draw(axes, points, 0, "peak, GB")
        known = [value for value in values if value is not None]
        top = max(known)
        if run is not None and run.planned_gb:
            axes.axhline(run.planned_gb, color=QUIET, linewidth=1.2, linestyle=":", label="planned")
            top = max(top, run.planned_gb)
        note = ""
        if run is not None and run.limit_gb <= 4 * top:
            axes.axhline(run.limit_gb, color=LINES[1], linewidth=1.2, linestyle="--", label="limit")
            top = max(top, run.limit_gb)
        elif run is not None:
            note = f"The limit, {run.limit_gb:.1f} GB, is off the chart."
        _finish(axes, curves.xs, 0, 1.08 * top)
        yield _picture(
            figure, "Memory", f"at most {max(known):.2f} GB in a step", note, points.each,
            how="maximum",
        )  # fmt: skip


def _latency(curves: _Curves) -> Iterator[Picture]:
    batches = curves.facts.moments.batches
    step_batches = [batches.get(step.step) for step in curves.steps]
    p50: list[float | None] = [batch.p50_s if batch else None for batch in step_batches]
    p95: list[float | None] = [batch.p95_s if batch else None for batch in step_batches]
    run = curves.facts.run.state.run
    if _nothing(p50) or (run is not None and run.judge == ev.OFFLINE_JUDGE):
        return
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, p50)
        draw(axes, points, 0, "median, s")
        draw(axes, thinned(curves.xs, p95), 1, "95th percentile, s")
        _finish(axes, curves.xs, 0, None)
        summary = f"median {_from_to(p50, 2)} s; 95th percentile {_from_to(p95, 2)} s"
        yield _picture(figure, "Latency of a verdict", summary, "", points.each)


# --- helpers ----------------------------------------------------------------------------


def _stacked(
    curves: _Curves, title: str, panels: Sequence[tuple[str, Values]], note: str
) -> Picture:
    """Vertically stacked panels with independent scales."""
    with drawing.picture((1,) * len(panels)) as (figure, parts):
        steps_per_point = 1
        for number, (axes, (name, values)) in enumerate(zip(parts, panels, strict=True)):
            points = thinned(curves.xs, values)
            steps_per_point = points.each
            draw(axes, points, number, name)
            legend(axes)
        over_steps(parts[-1], curves.xs)
        summary = "; ".join(f"{name} {_from_to(values, None)}" for name, values in panels)
        return _picture(figure, title, summary, note, steps_per_point)


def _finish(
    axes: Axes, xs: Sequence[float], low: float, high: float | None, *, columns: int = 4
) -> None:
    axes.set_ylim(bottom=low, top=high)
    over_steps(axes, xs)
    legend(axes, columns)


def _picture(
    figure: object, title: str, summary: str, note: str, steps_per_point: int, *, how: str = "mean"
) -> Picture:
    averaging_note = (
        f"Each point is the {how} of {steps_per_point} steps." if steps_per_point > 1 else ""
    )
    caption = " ".join(
        part for part in (f"{summary[:1].upper()}{summary[1:]}.", note, averaging_note) if part
    )
    return Picture(title, caption, drawing.svg(figure, f"{title}: {summary}"))  # type: ignore[arg-type]


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _nothing(values: Values) -> bool:
    return all(value is None for value in values)


def _up_to(values: Values) -> float:
    """Upper end of a percent scale; at least 10, so that a single completion does not look large."""
    return min(104.0, max(10.0, 1.1 * max((v for v in values if v is not None), default=0.0)))


def _from_to(values: Values, digits: int | None) -> str:
    """The first and last known values, such as ``0.411 → 0.816``."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    first, last = (
        f"{v:.3g}" if digits is None else f"{v:.{digits}f}" for v in (known[0], known[-1])
    )
    return f"{first} → {last}" if len(known) > 1 else first
