"""Judge pane: current batch, latency, failures, and cost."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events.judge_wait import JudgeWait, judge_wait
from ida_tui.events.state import RunState
from ida_tui.events.types import OFFLINE_JUDGE, JudgeMember
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines, seconds_since
from ida_tui.util.format import UNKNOWN, format_clock, format_cost


class JudgePane(Pane):
    """A live timer while a batch is being judged, and totals since the start of the run."""

    NAME, KEY = "Judge", "J"

    def __init__(self) -> None:
        super().__init__()
        self._wait: JudgeWait | None = None
        self._wait_of: tuple[object, int] | None = None
        """The batches and the number of steps that `_wait` was computed from."""

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """Seven rows, the most important first; for a panel also a row for each of its judges."""
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
            rows.append(Content(f"verdicts {totals.calls:,} · cached {totals.cached:,}"))
            failed = (f"failed {totals.failed:,}", "bold $text-error" if totals.failed else "")
            slots = f" · {last.slots} parallel" if last.slots is not None else ""
            rows.append(Content.assemble(failed, f" · retries {totals.retries:,}{slots}"))
            rows.append(
                Content(
                    f"cost {_format_cost(name, totals.cost)} · waited {format_clock(totals.exposed_s)}"
                )
            )
        if (hint := self._wait_hint(state)) is not None:
            rows.append(hint)
        if (step := state.newest_rollout) is not None:
            rows.append(Content(f"coverage {step.scored}/{step.completions} in step {step.step}"))
        if last is not None:
            rows += [_member_row(m) for m in last.members if m.scored == m.completions]
            if last.spread:
                spread = ", ".join(f"{axis} {value:.1f}" for axis, value in last.spread.items())
                rows.append(Content(f"mean spread {spread}"))
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


def _member_row(member: JudgeMember) -> Content:
    """The completions of the last batch that one judge of a panel scored."""
    count = f"{member.scored}/{member.completions}"
    style = "bold $text-error" if member.scored < member.completions else ""
    return Content.assemble((count, style), f" {member.name}")


def _format_latency(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f} s"


def _format_cost(judge: str, cost: float | None) -> str:
    return "$0" if judge == OFFLINE_JUDGE else format_cost(cost)
