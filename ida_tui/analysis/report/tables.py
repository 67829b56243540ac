"""Tables of a report: alerts, evaluation, judge, memory and steps. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ida_tui.analysis.before_after import KINDS
from ida_tui.analysis.comparison import judge_label, rubric_label
from ida_tui.analysis.comparison_text import format_agreement, format_judge_cost
from ida_tui.analysis.evaluation_table import (
    FigureCells,
    figure_cells,
    figures_of_kind,
    kind_title,
    provenance_lines,
)
from ida_tui.analysis.report.load import ReportInputs
from ida_tui.analysis.report.setup import LabelRow
from ida_tui.config.scoring.axes import Axis, format_score
from ida_tui.events import types as ev
from ida_tui.events.judge_quality import run_quality
from ida_tui.events.judge_wait import judge_wait
from ida_tui.events.narration import estimate_note
from ida_tui.events.state import RunState
from ida_tui.runs.store.judge_costs import later_cost
from ida_tui.util.format import (
    UNKNOWN,
    format_cost,
    format_count_share,
    format_duration,
    format_number,
    format_percent,
    format_signed,
    format_size,
)
from ida_tui.util.statistics import mean_of_known

MAX_ALERTS = 60
MAX_WARNINGS = 30
MAX_STEPS = 12
"""Maximum rows of the step table."""
PHASE_TEXT = {
    "always": "always",
    "loading": "while loading",
    "sampling": "while sampling",
    "update": "in the update",
    "evaluation": "in the evaluation",
}

QUALITY_LABELS = {
    "ties": "ties",
    "repeats": "repeated verdicts",
    "length": "length and reward",
    "position": "place in the group",
    "drift": "drift",
}
"""Labels of the figures of the verdicts' quality."""


class AlertRow(NamedTuple):
    """One alert, with its number in the reward plot."""

    number: int
    step: int
    rule: str
    evidence: str
    advice: str


def alert_rows(state: RunState) -> tuple[list[AlertRow], int]:
    """The listed alerts, and the number of further alerts."""
    numbered = [
        AlertRow(number, alert.step, alert.rule, alert.evidence, alert.advice)
        for number, alert in enumerate(state.alerts, start=first_alert_number(state))
    ]
    return numbered[:MAX_ALERTS], max(0, state.alert_count - min(MAX_ALERTS, len(numbered)))


def first_alert_number(state: RunState) -> int:
    """Number of the oldest alert in the state, which stores only the most recent ones."""
    return state.alert_count - len(state.alerts) + 1


def warning_texts(state: RunState) -> list[str]:
    """The distinct warnings of the run, in order."""
    texts = dict.fromkeys(notice.text for notice in state.notices if notice.level == "warning")
    return list(texts)[-MAX_WARNINGS:]


# --- before and after ---------------------------------------------------------------------------


class KindTable(NamedTuple):
    """Evaluation results of one prompt kind."""

    title: str
    rows: tuple[FigureCells, ...]


def evaluation_tables(inputs: ReportInputs) -> list[KindTable]:
    """Judged results with intervals, by prompt kind; empty if there is no evaluation."""
    evaluation = inputs.run.evaluation
    if evaluation is None:
        return []
    tables = []
    for kind in KINDS:
        figures, count = figures_of_kind(evaluation, kind)
        if figures:
            cells = tuple(figure_cells(figure, count) for figure in figures)
            tables.append(KindTable(kind_title(kind, count), cells))
    return tables


def evaluation_notes(inputs: ReportInputs) -> list[str]:
    """Notes on how the evaluation was made."""
    return list(provenance_lines(inputs.run.evaluation)) if inputs.run.evaluation else []


class CountRow(NamedTuple):
    """One count or mean of held-out answers, before and after training."""

    what: str
    before: str
    after: str


def count_rows(state: RunState) -> list[CountRow]:
    """Counts of held-out answers during the run and their mean scores; empty if there are none."""
    first = state.evaluation_before
    if first is None:
        return []
    before, after = _score_means(state, first), _score_means(state, state.evaluation_after)
    if first.harmless or first.unsafe:
        before |= _answer_shares(first)
        after |= _answer_shares(state.evaluation_after)
    return [CountRow(what, before[what], after.get(what, "not evaluated")) for what in before]


def _score_means(state: RunState, evaluation: ev.EvaluationFinished | None) -> dict[str, str]:
    """The mean reward and scores of an evaluation as text; empty if it was not scored."""
    if evaluation is None or not evaluation.scores:
        return {}
    reward = format_number(evaluation.reward)
    return {
        state.reward_name: reward,
        **{
            axis.name: format_count_share(share.hits, share.answers)
            if (share := evaluation.shares.get(axis.name)) is not None
            else format_score(evaluation.scores.get(axis.name), axis)
            for axis in state.axes
        },
    }


def _answer_shares(evaluation: ev.EvaluationFinished | None) -> dict[str, str]:
    if evaluation is None:
        return {}
    return {
        "harmless requests answered": format_count_share(
            evaluation.harmless_complied, evaluation.harmless
        ),
        "harmless requests partly refused": format_count_share(
            evaluation.harmless_partial, evaluation.harmless
        ),
        "harmless requests refused": format_count_share(
            evaluation.harmless_refused, evaluation.harmless
        ),
        "unsafe requests declined": format_count_share(
            evaluation.unsafe_refused, evaluation.unsafe
        ),
    }


# --- the judge ----------------------------------------------------------------------------------


def judge_rows(inputs: ReportInputs) -> Iterator[LabelRow]:
    """Rows for the judge: calls, failures, latency, cost, drift and spot-check agreement."""
    run, state, totals = inputs.run, inputs.run.state, inputs.run.state.judge
    offline = state.run is not None and state.run.judge == ev.OFFLINE_JUDGE
    if state.run is not None and not state.run.judge:
        yield LabelRow("scored by", judge_label(run))
        return
    yield LabelRow("judge", judge_label(run))
    yield LabelRow("rubric", rubric_label(run))
    if offline:
        yield LabelRow("verdicts", f"{totals.calls:,} from the {ev.OFFLINE_JUDGE}; no calls")
    else:
        yield LabelRow("calls", f"{totals.calls:,}, {totals.retries:,} retried")
        yield LabelRow("from the cache", f"{totals.cached:,}")
    yield LabelRow("failed verdicts", f"{totals.failed:,}; excluded from the means")
    for kind, count in totals.declined:
        yield LabelRow(f"{kind} declined by the judge", f"{count:,}")
    yield from panel_rows(list(inputs.extras.judge_batches.values()))
    if not offline:
        latency = inputs.extras.latency_s
        yield LabelRow(
            "latency per call",
            f"median {latency[0]:.2f} s over the steps, 95th percentile up to {latency[1]:.2f} s"
            if latency
            else "not measured",
        )
        waited = format_duration(totals.exposed_s)
        yield LabelRow("waiting time", f"{waited}, while the trainer was idle")
        if (wait := judge_wait(state)) is not None:
            yield LabelRow("what would help", wait.text)
    cost = format_judge_cost(run)
    note = estimate_note(run.judge_cost.estimated)
    yield LabelRow("cost", "unknown" if cost == UNKNOWN else f"{cost}{note}")
    if (later := later_cost(run.files)) != ev.JudgeCost():
        text = format_cost(later.cost) + estimate_note(later.estimated)
        yield LabelRow("cost of commands on the run", f"{text}; evaluate, chat and replay-judge")
    if state.judge_probes and state.judge_probes[-1].drift is None:
        yield LabelRow("drift", "unknown: the fixed answers were scored only once")
    yield from quality_rows(state)
    yield LabelRow("spot-check agreement", _agreement_text(inputs.spot_checks))


def quality_rows(state: RunState) -> Iterator[LabelRow]:
    """The figures of the verdicts' quality, each with what to do if it is bad; empty without figures."""
    quality = run_quality(state)
    for figure in quality.figures():
        problem = figure.problem[:1].upper() + figure.problem[1:]
        advice = f". {problem}: {figure.remedy}" if problem else ""
        yield LabelRow(QUALITY_LABELS[figure.name], f"{figure.text}{advice}")
    if quality.places:
        places = ", ".join(
            UNKNOWN if mean is None else format_signed(mean, 1) for mean in quality.places
        )
        yield LabelRow(
            "mean by place", f"{places} points from the mean of the group, first to last"
        )


def panel_rows(batches: Sequence[ev.JudgeBatchFinished]) -> Iterator[LabelRow]:
    """What each judge of a panel scored over the run, and how far they differ; empty without a panel."""
    figures: dict[str, list[ev.JudgeMember]] = {}
    for batch in batches:
        for member in batch.members:
            figures.setdefault(member.name, []).append(member)
    for name, steps in figures.items():
        scored, asked = sum(m.scored for m in steps), sum(m.completions for m in steps)
        failure = next((m.failure for m in reversed(steps) if m.failure), "")
        text = f"scored {format_count_share(scored, asked)} of its completions"
        yield LabelRow(f"panel: {name}", text + (f"; last failure: {failure}" if failure else ""))
    spreads = [batch.spread for batch in batches if batch.spread]
    if spreads:
        means = [
            f"{axis} {mean:.1f}"
            for axis in spreads[0]
            if (mean := mean_of_known(spread.get(axis) for spread in spreads)) is not None
        ]
        yield LabelRow(
            "mean spread of the panel", f"{', '.join(means)} points, highest minus lowest score"
        )


def _agreement_text(checks: tuple[int, int]) -> str:
    if not checks[1]:
        return "no spot checks (press + or − on the completions screen)"
    return f"{format_agreement(checks)}; share of checked scores that a person agreed with, 95% interval"


# --- memory -------------------------------------------------------------------------------------


class PlanRow(NamedTuple):
    """One item of the memory plan, as text."""

    name: str
    when: str
    size: str


def plan_rows(state: RunState) -> list[PlanRow]:
    """The items of the memory plan; empty if the run had no plan."""
    if state.run is None:
        return []
    return [
        PlanRow(name, PHASE_TEXT.get(when, when), format_size(size))
        for name, when, size in state.run.memory_plan
    ]


def memory_rows(state: RunState) -> Iterator[LabelRow]:
    """Rows for planned and measured memory."""
    run = state.run
    if run is not None and run.planned_gb is not None:
        yield LabelRow("planned peak", f"{run.planned_gb:.2f} GB")
    else:
        yield LabelRow("planned peak", "unknown: the model's layer sizes are not known")
    peak = max(state.memory_by_phase.values(), default=0)
    if run is None or run.device != "cuda":
        peak = max(peak, state.memory_peak)
    scope = "on the device" if run is not None and run.device == "cuda" else "of the process"
    if peak:
        share = ""
        if run is not None and run.planned_gb:
            share = f", {100 * peak / 1e9 / run.planned_gb:.0f}% of the plan"
        yield LabelRow("measured peak", f"{format_size(peak)} {scope}{share}")
    else:
        yield LabelRow("measured peak", "not sampled")
    if run is not None:
        yield LabelRow("limit", f"{run.limit_gb:.1f} GB")
    for phase, phase_peak in state.memory_by_phase.items():
        yield LabelRow(f"peak in phase {phase}", format_size(phase_peak))
    if state.memory is not None and state.memory.swap_growth > 0:
        yield LabelRow("swap", f"grew by {format_size(state.memory.swap_growth)}")


# --- steps --------------------------------------------------------------------------------------


class StepRow(NamedTuple):
    """One row of the step table."""

    step: int
    figures: tuple[str, ...]


def step_header(state: RunState) -> tuple[str, ...]:
    """Titles of the columns of the step table after the first."""
    axes = (axis.name for axis in state.axes)
    return (state.reward_name, *axes, "length", "truncated", "entropy", "seconds")


def step_rows(steps: Sequence[ev.StepFinished], axes: Sequence[Axis]) -> list[StepRow]:
    """Rows for the first and the last step that generated completions, and for evenly spaced ones between."""
    steps = [step for step in steps if step.reused_step is None]
    if not steps:
        return []
    row_count = min(MAX_STEPS, len(steps))
    positions = sorted(
        {round(n * (len(steps) - 1) / max(1, row_count - 1)) for n in range(row_count)}
    )
    return [_make_step_row(steps[n], axes) for n in positions]


def _make_step_row(step: ev.StepFinished, axes: Sequence[Axis]) -> StepRow:
    figures = (
        format_number(step.reward, 3),
        *(format_score(step.scores.get(axis.name), axis) for axis in axes),
        format_number(step.lengths[0] if step.lengths else None, 0),
        format_percent(step.truncated),
        format_number(step.entropy, 2),
        f"{sum(step.seconds.values()):.1f}",
    )
    return StepRow(step.step, figures)
