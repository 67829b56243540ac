"""Judge pane: current batch, latency, failures, cost, and the quality of the verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from ida_tui.events.judge_quality import QualityFigure, run_quality
from ida_tui.events.state import RunState
from ida_tui.events.types import OFFLINE_JUDGE, JudgeMember
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines, seconds_since
from ida_tui.util.format import UNKNOWN, format_clock, format_cost


class JudgePane(Pane):
    """A live timer while a batch is being judged, and totals since the start of the run."""

    NAME, KEY = "Judge", "J"

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """The rows, the most important first: seven fit beside the other panes, all if it is maximized."""
        name = state.run.judge if state.run else ""
        totals, last = state.judge, state.judge.last
        scoring = state.phase == "judge" and state.ended is None and run_view.in_progress
        rate_limited = (
            state.rate_limit_wait_s(now)
            if run_view.in_progress and run_view.viewed_state is None
            else 0.0
        )
        if state.pause is not None and run_view.in_progress:
            status = Content.assemble(("‖ paused", "bold $text-warning"))
        elif rate_limited:
            status = Content.assemble(
                ("◌ rate-limited ", "bold $text-warning"), (f"{rate_limited:.0f} s", "bold")
            )
        elif scoring and run_view.viewed_state is None:
            waited = seconds_since(max(state.phase_since, state.resumed_at), now)
            progress = state.judge_progress
            count = f" · {progress.answered}/{progress.asked}" if progress is not None else ""
            status = Content.assemble(
                ("● scoring ", "bold $text-accent"), (f"{waited:.1f} s", "bold"), count
            )
        elif last is not None:
            status = Content.assemble("last batch ", (f"{last.seconds:.2f} s", "bold"))
        else:
            status = Content.assemble(("no batch yet", "dim"))
        rows = [Content.assemble((name, "dim")), status]
        if last is not None:
            rows += [_member_row(m) for m in last.members if m.scored < m.completions]
            rows.append(
                Content(
                    f"call p50 {_format_latency(last.p50_s)}  p95 {_format_latency(last.p95_s)}"
                    f"  first {_format_latency(last.first_s)}"
                )
            )
            rows.append(
                Content.assemble(
                    f"verdicts {totals.calls:,} · cached {totals.cached:,} · ",
                    (f"failed {totals.failed:,}", "bold $text-error" if totals.failed else ""),
                )
            )
            parts = [f"retries {totals.retries:,}"]
            if last.slots is not None:
                parts.append(f"{last.slots} parallel")
            if (step := state.newest_rollout) is not None:
                parts.append(f"coverage {step.scored}/{step.completions}")
            rows.append(Content(" · ".join(parts)))
            rows.append(
                Content(
                    f"cost {_format_cost(name, totals.cost)} · waited {format_clock(totals.exposed_s)}"
                )
            )
        figures = list(run_quality(state).figures())
        rows += _quality_summary(figures)
        if last is not None:
            rows += [_member_row(m) for m in last.members if m.scored == m.completions]
            if last.spread:
                spread = ", ".join(f"{axis} {value:.1f}" for axis, value in last.spread.items())
                rows.append(Content(f"mean spread {spread}"))
        rows += _quality_rows(figures, self.available_size[0])
        return join_lines(*rows)


def _member_row(member: JudgeMember) -> Content:
    """The completions of the last batch that one judge of a panel scored."""
    count = f"{member.scored}/{member.completions}"
    style = "bold $text-error" if member.scored < member.completions else ""
    return Content.assemble((count, style), f" {member.name}")


def _quality_summary(figures: Sequence[QualityFigure]) -> list[Content]:
    """One row with the figures of the verdicts' quality, the problems first; empty without figures."""
    if not figures:
        return []
    parts: list[Content] = []
    for figure in sorted(figures, key=lambda figure: not figure.problem):
        parts.append(
            Content.assemble((f"! {figure.short}", "bold $text-warning"))
            if figure.problem
            else Content(figure.short)
        )
    return [Content(" · ").join(parts)]


def _quality_rows(figures: Sequence[QualityFigure], width: int) -> list[Content]:
    """Each figure in a sentence, and below it what is wrong and what to do; lines of at most `width`."""
    rows: list[Content] = []
    for figure in figures:
        rows.append(Content(""))
        text = f"{figure.name}: {figure.text}"
        rows += [Content(line) for line in textwrap.wrap(text, max(20, width))]
        if figure.problem:
            advice = f"! {figure.problem}: {figure.remedy}"
            rows += [
                Content.assemble((line, "$text-warning"))
                for line in textwrap.wrap(advice, max(20, width), subsequent_indent="  ")
            ]
    return rows


def _format_latency(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f} s"


def _format_cost(judge: str, cost: float | None) -> str:
    return "$0" if judge == OFFLINE_JUDGE else format_cost(cost)
