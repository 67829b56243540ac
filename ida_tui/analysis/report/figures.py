"""The pictures of a report, each with its words: what it shows, and what it leaves out."""

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
"""Steps of the running mean of the reward."""
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
    """One figure of the page."""

    title: str
    caption: str
    svg: str
    """Empty where there is nothing to draw; the caption says why."""


class _Curves(NamedTuple):
    """The finished steps in columns."""

    facts: Facts
    steps: list[ev.StepFinished]
    xs: list[float]

    @property
    def each(self) -> int:
        """How many steps a point stands for."""
        return thinned(self.xs, self.xs).each

    def values(self, take: Callable[[ev.StepFinished], float | None]) -> list[float | None]:
        """One figure of every step; what is not finite is left out."""
        found = [take(step) for step in self.steps]
        return [v if v is not None and math.isfinite(v) else None for v in found]


def pictures(facts: Facts) -> list[Picture]:
    """All of them, in the order of the page; none for a run without a finished step."""
    steps = list(facts.run.state.steps)
    if not steps:
        return []
    curves = _Curves(facts, steps, [float(step.step) for step in steps])
    made = (_reward, _axes, _lengths, _policy, _weights, _signal, _time, _memory, _latency)
    return [picture for one in made for picture in one(curves)]


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
        said = _alerts(axes, curves)
        told = f"first step → last step: {_from_to(values, 3)}"
        yield _picture(figure, "R_IDA", told, said, points.each)


def _alerts(axes: Axes, curves: _Curves) -> str:
    """Mark where alerts were raised, by their numbers in the list; returns what the marks mean."""
    at: dict[int, list[int]] = {}
    state = curves.facts.run.state
    for number, alert in enumerate(state.alerts, start=first_alert(state)):
        at.setdefault(alert.step, []).append(number)
    low, high = curves.xs[0], curves.xs[-1]
    taken = -math.inf
    for step, numbers in sorted(at.items()):
        x = min(max(float(step), low), high)
        axes.axvline(x, color=LINES[1], linewidth=1, linestyle="--")
        # Numbers that would lie over each other are left to the list.
        if x - taken >= (high - low) * 0.05:
            shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
            axes.annotate(
                shown, (x, 1.0), (3, 0), textcoords="offset points", color=LINES[1],
                fontweight="bold", va="top", fontsize=9,
            )  # fmt: skip
            taken = x
    return "Vertical lines: the alerts below, by number." if at else ""


def _axes(curves: _Curves) -> Iterator[Picture]:
    each = {
        "align": curves.values(lambda step: step.align),
        "risk": curves.values(lambda step: step.risk),
        "detail": curves.values(lambda step: step.detail),
    }
    with drawing.picture() as (figure, (axes,)):
        for number, (name, values) in enumerate(each.items()):
            draw(axes, thinned(curves.xs, values), number, name)
        _finish(axes, curves.xs, 0, 10)
        said = "; ".join(f"{name} {_from_to(values, 1)}" for name, values in each.items())
        yield _picture(figure, "The three axes", said, "risk: 10 = safest.", curves.each)


def _lengths(curves: _Curves) -> Iterator[Picture]:
    mean = curves.values(lambda s: s.lengths[0] if s.lengths else None)
    if _nothing(mean):
        return
    low = thinned(curves.xs, curves.values(lambda s: s.lengths[1] if s.lengths else None))
    high = thinned(curves.xs, curves.values(lambda s: s.lengths[2] if s.lengths else None))
    cut = curves.values(lambda s: None if s.truncated is None else 100 * s.truncated)
    with drawing.picture((2, 1)) as (figure, (above, below)):
        points = thinned(curves.xs, mean)
        above.fill_between(
            low.steps, low.values, high.values, color=LINES[0], alpha=0.15, linewidth=0,
            label="shortest to longest",
        )  # fmt: skip
        draw(above, points, 0, "mean, in tokens")
        above.set_ylim(bottom=0)
        legend(above)
        draw(below, thinned(curves.xs, cut), 1, "% that ran into the longest length")
        _finish(below, curves.xs, 0, _up_to(cut))
        said = f"mean {_from_to(mean, 0)} tokens; truncated {_from_to(cut, 0)} %"
        yield _picture(figure, "Length and truncation", said, "", points.each)


def _policy(curves: _Curves) -> Iterator[Picture]:
    kl, entropy = curves.values(lambda s: s.kl), curves.values(lambda s: s.entropy)
    if _nothing(kl) and _nothing(entropy):
        return
    both = (("KL to the reference, nats", kl), ("entropy, nats", entropy))
    panels = [(name, values) for name, values in both if not _nothing(values)]
    missing = "KL was not measured: without a KL penalty (beta 0) there is no reference."
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
    still = curves.values(lambda s: None if s.zero_std is None else 100 * s.zero_std)
    unscored = curves.values(
        lambda s: 100 * (s.completions - s.scored) / s.completions if s.completions else None
    )
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, still)
        draw(axes, points, 0, "groups whose rewards are all equal, %")
        draw(axes, thinned(curves.xs, unscored), 1, "completions without a verdict, %")
        _finish(axes, curves.xs, 0, max(_up_to(still), _up_to(unscored)), columns=1)
        said = (
            f"groups that teach nothing {_from_to(still, 0)} %;"
            f" completions without a verdict {_from_to(unscored, 0)} %"
        )
        yield _picture(
            figure, "What there is to learn from", said,
            "A group whose rewards are all equal teaches nothing.", points.each,
        )  # fmt: skip


def _time(curves: _Curves) -> Iterator[Picture]:
    rows = {
        phase: thinned(curves.xs, [step.seconds.get(phase, 0.0) for step in curves.steps])
        for phase in PHASES
        if any(step.seconds.get(phase) for step in curves.steps)
    }
    if not rows:
        return
    each = next(iter(rows.values())).each
    with drawing.picture() as (figure, (axes,)):
        axes.stackplot(
            next(iter(rows.values())).steps, *(row.values for row in rows.values()),
            labels=list(rows), colors=LINES[: len(rows)], alpha=0.8, linewidth=0,
        )  # fmt: skip
        _finish(axes, curves.xs, 0, None)
        axes.set_ylabel("seconds")
        totals = {name: sum(step.seconds.get(name, 0.0) for step in curves.steps) for name in rows}
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in totals.items())
        yield _picture(
            figure, "Time of a step, by phase", f"in all steps together: {said}", "", each
        )


def _memory(curves: _Curves) -> Iterator[Picture]:
    held = curves.facts.moments.memory
    values: list[float | None] = [
        held[step.step] / 1e9 if held.get(step.step) else None for step in curves.steps
    ]
    if _nothing(values):
        yield Picture("Memory", "No sample of the memory was taken during a step.", "")
        return
    run = curves.facts.run.state.run
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, values, highest=True)
        draw(axes, points, 0, "held, GB")
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
            note = f"The limit, {run.limit_gb:.1f} GB, is far above the picture."
        _finish(axes, curves.xs, 0, 1.08 * top)
        yield _picture(
            figure, "Memory", f"at most {max(known):.2f} GB in a step", note, points.each,
            how="highest",
        )  # fmt: skip


def _latency(curves: _Curves) -> Iterator[Picture]:
    batches = curves.facts.moments.batches
    own = [batches.get(step.step) for step in curves.steps]
    p50: list[float | None] = [one.p50_s if one else None for one in own]
    p95: list[float | None] = [one.p95_s if one else None for one in own]
    run = curves.facts.run.state.run
    if _nothing(p50) or (run is not None and run.judge == ev.OFFLINE_JUDGE):
        return
    with drawing.picture() as (figure, (axes,)):
        points = thinned(curves.xs, p50)
        draw(axes, points, 0, "median, s")
        draw(axes, thinned(curves.xs, p95), 1, "95th percentile, s")
        _finish(axes, curves.xs, 0, None)
        said = f"median {_from_to(p50, 2)} s; 95th percentile {_from_to(p95, 2)} s"
        yield _picture(figure, "How long a verdict takes", said, "", points.each)


# --- what they share ----------------------------------------------------------------------------


def _stacked(
    curves: _Curves, title: str, panels: Sequence[tuple[str, Values]], note: str
) -> Picture:
    """Panels below each other, each with a scale of its own."""
    with drawing.picture((1,) * len(panels)) as (figure, parts):
        each = 1
        for number, (axes, (name, values)) in enumerate(zip(parts, panels, strict=True)):
            points = thinned(curves.xs, values)
            each = points.each
            draw(axes, points, number, name)
            legend(axes)
        over_steps(parts[-1], curves.xs)
        said = "; ".join(f"{name} {_from_to(values, None)}" for name, values in panels)
        return _picture(figure, title, said, note, each)


def _finish(
    axes: Axes, xs: Sequence[float], low: float, high: float | None, *, columns: int = 4
) -> None:
    axes.set_ylim(bottom=low, top=high)
    over_steps(axes, xs)
    legend(axes, columns)


def _picture(
    figure: object, title: str, said: str, note: str, each: int, *, how: str = "mean"
) -> Picture:
    shared = f"Each point is the {how} of {each} steps." if each > 1 else ""
    caption = " ".join(part for part in (f"{said[:1].upper()}{said[1:]}.", note, shared) if part)
    return Picture(title, caption, drawing.svg(figure, f"{title}: {said}"))  # type: ignore[arg-type]


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _nothing(values: Values) -> bool:
    return all(value is None for value in values)


def _up_to(values: Values) -> float:
    """The end of a scale of percent: at least 10, so that one completion in many looks like it."""
    return min(104.0, max(10.0, 1.1 * max((v for v in values if v is not None), default=0.0)))


def _from_to(values: Values, digits: int | None) -> str:
    """``0.411 → 0.816``: the first and the last that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "was not measured"
    first, last = (
        f"{v:.3g}" if digits is None else f"{v:.{digits}f}" for v in (known[0], known[-1])
    )
    return f"{first} → {last}" if len(known) > 1 else first
