"""Judge pane: current batch, latency, failures, cost, and the quality of the verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from textual.content import Content

from ida_tui.events.judge_quality import QualityFigure, run_quality
from ida_tui.events.judge_wait import JudgeWait, judge_wait
from ida_tui.events.state import RunState
from ida_tui.events.types import OFFLINE_JUDGE, JudgeBatchFinished, JudgeMember
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines, seconds_since
from ida_tui.util.format import UNKNOWN, format_clock, format_cost
from ida_tui.util.text import one_line

WIDTH = 42
"""Columns of the pane beside the other panes, before it is laid out."""
NARROW = 40
"""Columns below which a row has room for fewer figures."""


class JudgePane(Pane):
    """A live timer while a batch is being judged, and totals since the start of the run."""

    NAME, KEY = "Judge", "J"

    def __init__(self) -> None:
        super().__init__()
        self._wait: JudgeWait | None = None
        self._wait_of: tuple[object, int] | None = None
        """The batches and the number of steps that `_wait` was computed from."""
        self._figures: tuple[object, list[QualityFigure]] = (None, [])
        """The newest figures of the verdicts' quality, and what they were computed from."""

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
        width = self.available_size[0] or WIDTH
        narrow = width < NARROW
        figures = self._quality_figures(state)
        if last is not None:
            rows += [_member_row(m) for m in last.members if m.scored < m.completions]
            if last.failure and not last.members:
                rows.append(Content.assemble((one_line(last.failure), "$text-error")))
            calls = f"call p50 {_format_latency(last.p50_s)}  p95 {_format_latency(last.p95_s)}"
            first = f"  first {_format_latency(last.first_s)}"
            rows.append(Content(calls + (first if len(calls + first) <= width else "")))
            rows += _call_rows(state, last, narrow=narrow)
            rows.append(
                Content(
                    f"cost {_format_cost(name, totals.cost)} · waited {format_clock(totals.exposed_s)}"
                )
            )
        if (hint := self._wait_hint(state)) is not None:
            rows.insert(2 if narrow else len(rows), hint)  # a narrow pane is low, too
        summary = _quality_summary(figures, width)
        if narrow and any(figure.problem for figure in figures):
            rows[2:2] = summary  # a narrow pane is low, too
        else:
            rows += summary
        if last is not None:
            rows += [_member_row(m) for m in last.members if m.scored == m.completions]
            if last.spread:
                spread = ", ".join(f"{axis} {value:.1f}" for axis, value in last.spread.items())
                rows.append(Content(f"mean spread {spread}"))
        sentences = [(f"{figure.name}: {figure.text}", _advice(figure)) for figure in figures]
        if self._wait is not None:
            sentences.insert(0, (f"waiting: {self._wait.text}", ""))
        rows += _sentence_rows(sentences, width, self.available_size[1] - len(rows))
        return join_lines(*rows)

    def _wait_hint(self, state: RunState) -> Content | None:
        """The setting that would shorten the wait for the judge most; None while none would by much."""
        inputs = (state.judge.recent, len(state.steps))
        if (
            self._wait_of is None
            or self._wait_of[0] is not inputs[0]
            or self._wait_of[1] != inputs[1]
        ):
            self._wait_of, self._wait = inputs, judge_wait(state)
        if self._wait is None:
            return None
        return Content.assemble((f"→ {self._wait.short_text}", "$text-accent"))

    def _quality_figures(self, state: RunState) -> list[QualityFigure]:
        """The figures of the verdicts' quality, computed again only after a step or a drift probe."""
        newest = state.steps[-1] if state.steps else None
        source = (newest, len(state.steps), state.scored_since_step, state.judge_probes)
        if source != self._figures[0]:
            self._figures = source, list(run_quality(state).figures())
        return self._figures[1]


def _member_row(member: JudgeMember) -> Content:
    """The completions of the last batch that one judge of a panel scored."""
    count = f"{member.scored}/{member.completions}"
    style = "bold $text-error" if member.scored < member.completions else ""
    return Content.assemble((count, style), f" {member.name}")


def _call_rows(state: RunState, last: JudgeBatchFinished, *, narrow: bool) -> list[Content]:
    """Verdicts, failures, retries, parallel calls and coverage; in a narrow pane the first ones only."""
    totals, step = state.judge, state.newest_rollout
    verdicts = f"verdicts {totals.calls:,} · cached {totals.cached:,}"
    failed = (f"failed {totals.failed:,}", "bold $text-error" if totals.failed else "")
    retries = f"retries {totals.retries:,}"
    slots = f" · {last.slots} parallel" if last.slots is not None else ""
    coverage = f" · coverage {step.scored}/{step.completions}" if step is not None else ""
    if narrow:
        return [Content(verdicts), Content.assemble(failed, f" · {retries}{slots}")]
    return [
        Content.assemble(f"{verdicts} · ", failed),
        Content(f"{retries}{slots}{coverage}"),
    ]


def _quality_summary(figures: Sequence[QualityFigure], width: int) -> list[Content]:
    """One row with the figures of the verdicts' quality, the problems first, as many as fit."""
    parts: list[Content] = []
    free = width
    for figure in sorted(figures, key=lambda figure: not figure.problem):
        part = Content.assemble(
            (f"! {figure.short}", "bold $text-warning") if figure.problem else figure.short
        )
        needed = part.cell_length + (3 if parts else 0)
        if needed <= free:
            parts.append(part)
            free -= needed
    return [Content(" · ").join(parts)] if parts else []


def _advice(figure: QualityFigure) -> str:
    """What is wrong and what to do; empty if nothing is wrong."""
    return f"! {figure.problem}: {figure.remedy}" if figure.problem else ""


def _sentence_rows(sentences: Sequence[tuple[str, str]], width: int, height: int) -> list[Content]:
    """Sentences, each with its advice below it.

    Args:
        sentences: sentence and advice; the advice may be empty.
        width: columns of a line.
        height: free rows; if there are enough, an empty row is above each sentence.
    """
    blocks: list[list[Content]] = []
    for sentence, advice in sentences:
        block = list(map(Content, textwrap.wrap(sentence, max(20, width))))
        if advice:
            lines = textwrap.wrap(advice, max(20, width), subsequent_indent="  ")
            block += [Content.assemble((line, "$text-warning")) for line in lines]
        blocks.append(block)
    is_spaced = sum(map(len, blocks)) + len(blocks) <= height
    space = [Content("")] if is_spaced else []
    return [row for block in blocks for row in (*space, *block)]


def _format_latency(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f} s"


def _format_cost(judge: str, cost: float | None) -> str:
    return "$0" if judge == OFFLINE_JUDGE else format_cost(cost)
