"""Tables of a report: alerts, evaluation, judge, memory and steps. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ida_tui.analysis.before_after import KINDS
from ida_tui.analysis.comparison_text import UNKNOWN, agreed, duration, priced
from ida_tui.analysis.evaluation_table import Cells, about, cells
from ida_tui.analysis.report.load import Facts
from ida_tui.analysis.report.setup import Row
from ida_tui.events import types as ev
from ida_tui.events.state import RunState

MOST_ALERTS = 60
MOST_NOTICES = 30
MOST_STEPS = 12
"""Maximum rows of the step table."""
WHEN = {
    "always": "always",
    "loading": "while loading",
    "sampling": "while sampling",
    "update": "in the update",
}


class Alert(NamedTuple):
    """One alert, with its number in the reward plot."""

    number: int
    step: int
    rule: str
    evidence: str
    advice: str


def alerts(state: RunState) -> tuple[list[Alert], int]:
    """The listed alerts, and the number of further alerts."""
    numbered = [
        Alert(number, alert.step, alert.rule, alert.evidence, alert.advice)
        for number, alert in enumerate(state.alerts, start=first_alert(state))
    ]
    return numbered[:MOST_ALERTS], max(0, state.alerted - min(MOST_ALERTS, len(numbered)))


def first_alert(state: RunState) -> int:
    """Number of the oldest alert in the state, which stores only the most recent ones."""
    return state.alerted - len(state.alerts) + 1


def warnings(state: RunState) -> list[str]:
    """The distinct warnings of the run, in order."""
    texts = dict.fromkeys(notice.text for notice in state.notices if notice.level == "warning")
    return list(texts)[-MOST_NOTICES:]


# --- before and after ---------------------------------------------------------------------------


class Kind(NamedTuple):
    """Evaluation results of one prompt kind."""

    title: str
    rows: tuple[Cells, ...]


def evaluated(facts: Facts) -> list[Kind]:
    """Judged results with intervals, by prompt kind; empty if there is no evaluation."""
    evaluation = facts.run.evaluation
    if evaluation is None:
        return []
    tables = []
    for kind in KINDS:
        count = evaluation.harmless if kind == "harmless" else evaluation.unsafe
        kind_rows = [
            cells(figure, count)
            for figure in evaluation.figures
            if figure.name.startswith(f"{kind} ")
        ]
        if kind_rows:
            tables.append(Kind(f"{kind}, {count} prompt{'s' * (count != 1)}", tuple(kind_rows)))
    return tables


def about_evaluation(facts: Facts) -> list[str]:
    """Notes on how the evaluation was made."""
    return list(about(facts.run.evaluation)) if facts.run.evaluation else []


class Count(NamedTuple):
    """One count of held-out answers, before and after training."""

    what: str
    before: str
    after: str


def counted(state: RunState) -> list[Count]:
    """Counts of held-out answers during the run; empty if there was no evaluation."""
    if state.before is None:
        return []
    before, after = _shares(state.before), _shares(state.after)
    return [Count(what, before[what], after.get(what, "not evaluated")) for what in before]


def _shares(evaluation: ev.EvaluationFinished | None) -> dict[str, str]:
    if evaluation is None:
        return {}
    return {
        "harmless requests answered": _of(evaluation.harmless_complied, evaluation.harmless),
        "harmless requests partly refused": _of(evaluation.harmless_partial, evaluation.harmless),
        "harmless requests refused": _of(evaluation.harmless_refused, evaluation.harmless),
        "unsafe requests declined": _of(evaluation.unsafe_refused, evaluation.unsafe),
    }


def _of(part: int, total: int) -> str:
    return f"{100 * part / total:.0f}% ({part}/{total})" if total else "no prompts"


# --- the judge ----------------------------------------------------------------------------------


def judge(facts: Facts) -> Iterator[Row]:
    """Rows for the judge: calls, failures, latency, cost, drift and spot-check agreement."""
    run, state, totals = facts.run, facts.run.state, facts.run.state.judge
    offline = state.run is not None and state.run.judge == ev.OFFLINE_JUDGE
    yield Row("judge", run.judge)
    yield Row("rubric", run.rubric)
    if offline:
        yield Row("verdicts", f"{totals.calls:,} from the {ev.OFFLINE_JUDGE}; no calls")
    else:
        yield Row("calls", f"{totals.calls:,}, {totals.retries:,} retried")
        yield Row("from the cache", f"{totals.cached:,}")
    yield Row("failed verdicts", f"{totals.failed:,}; excluded from the means")
    for kind, count in totals.declined:
        yield Row(f"{kind} declined by the judge", f"{count:,}")
    if not offline:
        latency = facts.moments.latency_s
        yield Row(
            "latency per call",
            f"median {latency[0]:.2f} s over the steps, 95th percentile up to {latency[1]:.2f} s"
            if latency
            else "not measured",
        )
        waited = duration(totals.exposed_s)
        yield Row("waiting time", f"{waited}, while the trainer was idle")
    cost = priced(run)
    yield Row("cost", "unknown" if cost == UNKNOWN else cost)
    if state.probes:
        drift = state.probes[-1].drift
        yield Row("drift", "unknown: the fixed answers were scored only once" if drift is None
                  else f"{drift:.1f} points per axis on the same fixed answers")  # fmt: skip
    yield Row("spot-check agreement", _agreed(run.checks))


def _agreed(checks: tuple[int, int]) -> str:
    if not checks[1]:
        return "no spot checks (press + or − on the completions screen)"
    return f"{agreed(checks)}; share of checked scores that a person agreed with, 95% interval"


# --- memory -------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One item of the memory plan, as text."""

    name: str
    when: str
    size: str


def planned(state: RunState) -> list[Part]:
    """The items of the memory plan; empty if the run had no plan."""
    if state.run is None:
        return []
    return [Part(name, WHEN.get(when, when), _size(size)) for name, when, size in state.run.plan]


def memory(state: RunState) -> Iterator[Row]:
    """Rows for planned and measured memory."""
    run = state.run
    if run is not None and run.planned_gb is not None:
        yield Row("planned peak", f"{run.planned_gb:.2f} GB")
    else:
        yield Row("planned peak", "unknown: the model's layer sizes are not known")
    peak = max(state.memory_by_phase.values(), default=0)
    if run is None or run.device != "cuda":
        peak = max(peak, state.memory_peak)
    scope = "on the device" if run is not None and run.device == "cuda" else "of the process"
    if peak:
        share = ""
        if run is not None and run.planned_gb:
            share = f", {100 * peak / 1e9 / run.planned_gb:.0f}% of the plan"
        yield Row("measured peak", f"{_size(peak)} {scope}{share}")
    else:
        yield Row("measured peak", "not sampled")
    if run is not None:
        yield Row("limit", f"{run.limit_gb:.1f} GB")
    for phase, phase_peak in state.memory_by_phase.items():
        yield Row(f"peak in phase {phase}", _size(phase_peak))
    if state.memory is not None and state.memory.swap_growth > 0:
        yield Row("swap", f"grew by {_size(state.memory.swap_growth)}")


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


# --- steps --------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One row of the step table."""

    step: int
    figures: tuple[str, ...]


STEP_HEAD = ("R_IDA", "align", "risk", "detail", "length", "truncated", "entropy", "seconds")


def some_steps(steps: Sequence[ev.StepFinished]) -> list[Step]:
    """Rows for the first step, the last step, and evenly spaced steps between them."""
    if not steps:
        return []
    row_count = min(MOST_STEPS, len(steps))
    positions = sorted(
        {round(n * (len(steps) - 1) / max(1, row_count - 1)) for n in range(row_count)}
    )
    return [_step(steps[n]) for n in positions]


def _step(step: ev.StepFinished) -> Step:
    figures = (
        _number(step.r_ida, 3), _number(step.align, 1), _number(step.risk, 1),
        _number(step.detail, 1), _number(step.lengths[0] if step.lengths else None, 0),
        UNKNOWN if step.truncated is None else f"{100 * step.truncated:.0f}%",
        _number(step.entropy, 2), f"{sum(step.seconds.values()):.1f}",
    )  # fmt: skip
    return Step(step.step, figures)


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
