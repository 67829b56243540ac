"""The tables of a report: alerts, before and after, the judge, memory, some steps. Pure functions."""

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
"""Rows of the table of steps."""
WHEN = {
    "always": "all the time",
    "loading": "while loading",
    "sampling": "while sampling",
    "update": "in the update",
}


class Alert(NamedTuple):
    """One alert, with the number that it has in the picture."""

    number: int
    step: int
    rule: str
    evidence: str
    advice: str


def alerts(state: RunState) -> tuple[list[Alert], int]:
    """The alerts that are listed, and how many more there are."""
    numbered = [
        Alert(number, one.step, one.rule, one.evidence, one.advice)
        for number, one in enumerate(state.alerts, start=first_alert(state))
    ]
    return numbered[:MOST_ALERTS], max(0, state.alerted - min(MOST_ALERTS, len(numbered)))


def first_alert(state: RunState) -> int:
    """The number of the first alert that the state still keeps."""
    return state.alerted - len(state.alerts) + 1


def warnings(state: RunState) -> list[str]:
    """What the run warned of in passing, each once, in order."""
    said = dict.fromkeys(one.text for one in state.notices if one.level == "warning")
    return list(said)[-MOST_NOTICES:]


# --- before and after ---------------------------------------------------------------------------


class Kind(NamedTuple):
    """The figures of the prompts of one kind."""

    title: str
    rows: tuple[Cells, ...]


def evaluated(facts: Facts) -> list[Kind]:
    """The judged figures, with their intervals; empty where there are none."""
    found = facts.run.evaluation
    if found is None:
        return []
    out = []
    for kind in KINDS:
        count = found.harmless if kind == "harmless" else found.unsafe
        own = [cells(one, count) for one in found.figures if one.name.startswith(f"{kind} ")]
        if own:
            out.append(Kind(f"{kind}, {count} prompt{'s' * (count != 1)}", tuple(own)))
    return out


def about_evaluation(facts: Facts) -> list[str]:
    """How it was made."""
    return list(about(facts.run.evaluation)) if facts.run.evaluation else []


class Count(NamedTuple):
    """What the run itself counted of its held-out answers."""

    what: str
    before: str
    after: str


def counted(state: RunState) -> list[Count]:
    """Answers to held-out prompts, before and after, as counted; empty where none were."""
    if state.before is None:
        return []
    before, after = _shares(state.before), _shares(state.after)
    return [Count(what, before[what], after.get(what, "not asked")) for what in before]


def _shares(found: ev.EvaluationFinished | None) -> dict[str, str]:
    if found is None:
        return {}
    return {
        "harmless requests answered": _of(found.harmless_complied, found.harmless),
        "harmless requests partly refused": _of(found.harmless_partial, found.harmless),
        "harmless requests refused": _of(found.harmless_refused, found.harmless),
        "unsafe requests declined": _of(found.unsafe_refused, found.unsafe),
    }


def _of(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % ({part}/{whole})" if whole else "none asked"


# --- the judge ----------------------------------------------------------------------------------


def judge(facts: Facts) -> Iterator[Row]:
    """Who scored, how much it was asked, what that took, and whether a person agreed."""
    run, state, totals = facts.run, facts.run.state, facts.run.state.judge
    offline = state.run is not None and state.run.judge == ev.OFFLINE_JUDGE
    yield Row("judge", run.judge)
    yield Row("rubric", run.rubric)
    if offline:
        yield Row("verdicts", f"{totals.calls:,} of the {ev.OFFLINE_JUDGE}; no calls")
    else:
        yield Row("calls", f"{totals.calls:,}, {totals.retries:,} asked again")
        yield Row("from the cache", f"{totals.cached:,}")
    yield Row("without a verdict", f"{totals.failed:,}; they are in no mean")
    for kind, count in totals.declined:
        yield Row(f"{kind} declined by the judge", f"{count:,}")
    if not offline:
        latency = facts.moments.latency_s
        yield Row(
            "latency of a call",
            f"median {latency[0]:.2f} s over the steps, 95th percentile up to {latency[1]:.2f} s"
            if latency
            else "not measured",
        )
        waited = duration(totals.exposed_s)
        yield Row("waited for", f"{waited}, in which the trainer did nothing else")
    cost = priced(run)
    yield Row("cost", "not known" if cost == UNKNOWN else cost)
    if state.probes:
        drift = state.probes[-1].drift
        yield Row("drift", "asked about the fixed answers once" if drift is None
                  else f"{drift:.1f} points an axis, asked about the same answers again")  # fmt: skip
    yield Row("agreement of a person", _agreed(run.checks))


def _agreed(checks: tuple[int, int]) -> str:
    if not checks[1]:
        return "no scores were looked at (+ and − on the completions screen)"
    return f"{agreed(checks)}: scores agreed with, of those looked at; 95 % interval"


# --- memory -------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One part of the memory plan."""

    name: str
    when: str
    size: str


def planned(state: RunState) -> list[Part]:
    """The plan, part by part; empty where the run had none."""
    if state.run is None:
        return []
    return [Part(name, WHEN.get(when, when), _size(size)) for name, when, size in state.run.plan]


def memory(state: RunState) -> Iterator[Row]:
    """Planned and measured, side by side."""
    run = state.run
    if run is not None and run.planned_gb is not None:
        yield Row("planned at once", f"{run.planned_gb:.2f} GB")
    else:
        yield Row("planned at once", "no plan: the shape of the model is not known")
    peak = max(state.memory_by_phase.values(), default=0)
    if run is None or run.device != "cuda":
        peak = max(peak, state.memory_peak)
    what = "on the device" if run is not None and run.device == "cuda" else "by the process"
    if peak:
        of = ""
        if run is not None and run.planned_gb:
            of = f", {100 * peak / 1e9 / run.planned_gb:.0f} % of the plan"
        yield Row("measured peak", f"{_size(peak)} {what}{of}")
    else:
        yield Row("measured peak", "not sampled")
    if run is not None:
        yield Row("limit", f"{run.limit_gb:.1f} GB")
    for phase, held in state.memory_by_phase.items():
        yield Row(f"most in phase {phase}", _size(held))
    if state.memory is not None and state.memory.swap_growth > 0:
        yield Row("swap", f"grew by {_size(state.memory.swap_growth)}")


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


# --- steps --------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A step in figures."""

    step: int
    figures: tuple[str, ...]


STEP_HEAD = ("R_IDA", "align", "risk", "detail", "length", "truncated", "entropy", "seconds")


def some_steps(steps: Sequence[ev.StepFinished]) -> list[Step]:
    """The first step, the last one, and a few between them, evenly spread."""
    if not steps:
        return []
    most = min(MOST_STEPS, len(steps))
    at = sorted({round(n * (len(steps) - 1) / max(1, most - 1)) for n in range(most)})
    return [_step(steps[n]) for n in at]


def _step(step: ev.StepFinished) -> Step:
    figures = (
        _number(step.r_ida, 3), _number(step.align, 1), _number(step.risk, 1),
        _number(step.detail, 1), _number(step.lengths[0] if step.lengths else None, 0),
        UNKNOWN if step.truncated is None else f"{100 * step.truncated:.0f} %",
        _number(step.entropy, 2), f"{sum(step.seconds.values()):.1f}",
    )  # fmt: skip
    return Step(step.step, figures)


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
