"""Memory pane: memory of the machine, the run, the app, and the device; the memory limit; swap growth."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events import narration
from ida_tui.events.state import RunState
from ida_tui.events.types import MemorySampled
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane, join_lines
from ida_tui.tui.widgets.bar import format_bar
from ida_tui.util.format import format_gigabytes
from ida_tui.util.sparkline import sparkline

HIGH, CRITICAL = 0.85, 0.95
"""Shares of the limit above which the gauge shows `high` and `critical`."""


class MemoryPane(Pane):
    """A gauge of the machine's memory use against the profile's limit."""

    NAME, KEY = "Memory", "M"

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """At most six rows; seven in a distributed run. The memory table follows if it fits."""
        sample = state.memory
        if sample is None:
            return Content.assemble(("not sampled yet", "dim"))
        width = max(16, self.available_size[0])
        limit = state.run.limit_gb * 1e9 if state.run else float(sample.system_total)
        rows = [*render_gauge(sample.system_used, limit, width)]
        rows.append(_run_line(state, sample, width))
        if sample.device_tensors is not None:
            cache = sample.device_cache or 0
            limit_text = (
                f" of {format_gigabytes(sample.device_limit)}" if sample.device_limit else ""
            )
            rows.append(
                Content(
                    f"device {format_gigabytes(sample.device_tensors)} GB"
                    f" + cache {format_gigabytes(cache)}{limit_text}"
                )
            )
        rows += _rank_line(state)
        swap = _swap_line(sample)
        if run_view.in_progress and run_view.viewed_state is None:
            swap += Content.assemble(
                (f" · this app {format_gigabytes(self.app.own_memory())} GB", "dim")
            )
        rows.append(swap)
        rows += self._memory_table(state, limit, len(rows))
        used = [float(s.system_used) for s in state.memory_samples]
        rows.append(
            Content.assemble(
                (sparkline(used[-width:], low=0.0, high=limit, width=width), "$text-accent")
            )
        )
        return join_lines(*rows)

    def _memory_table(self, state: RunState, limit: float, above: int) -> list[Content]:
        """Planned and measured memory as a table, if the pane has room for it."""
        if state.run is None or not state.run.memory_plan:
            return []
        table = narration.memory_table(
            state.run.memory_plan, limit, narration.measured_memory(state)
        )
        return (
            [Content(line) for line in table] if len(table) + above < self.available_size[1] else []
        )


def render_gauge(used: int, limit: float, width: int) -> list[Content]:
    """System memory as a bar and as numbers, with a warning near the limit."""
    share = used / limit
    word, style = "", "$text-accent"
    if share >= CRITICAL:
        word, style = " critical", "$text-error"
    elif share >= HIGH:
        word, style = " high", "$text-warning"
    tail = f" {share:.0%}{word}"
    return [
        Content.assemble((format_bar(share, width - len(tail)), style), (tail, f"bold {style}")),
        Content(f"system {format_gigabytes(used)} of {format_gigabytes(limit)} GB"),
    ]


def _rank_line(state: RunState) -> list[Content]:
    """Total memory of all ranks after the last step, and the rank with the most."""
    ranks = state.steps[-1].ranks if state.steps else ()
    if not ranks:
        return []
    # Device memory if each rank has its own device, otherwise the memory of the process.
    sizes = [
        rank.process_memory
        if rank.device_tensors is None
        else rank.device_tensors + (rank.device_cache or 0)
        for rank in ranks
    ]
    return [
        Content.assemble(
            f"{len(ranks)} processes {format_gigabytes(sum(sizes))} GB",
            (
                f", largest rank {sizes.index(max(sizes))}: {format_gigabytes(max(sizes))}",
                "dim",
            ),
        )
    ]


def _run_line(state: RunState, sample: MemorySampled, width: int) -> Content:
    """Memory of the process that trains the run, and what was planned before anything was loaded."""
    used, peak = format_gigabytes(sample.process), format_gigabytes(state.memory_peak)
    planned = state.run.planned_gb if state.run else None
    more = f", peak {peak}"
    more += "" if planned is None else f", plan {format_gigabytes(round(planned * 1e9))}"
    unit = " GB" if len(f"run {used} GB{more}") <= width else ""
    return Content.assemble(f"run {used}{unit}", (more, "dim"))


def _swap_line(sample: MemorySampled) -> Content:
    if not sample.swap_growth:
        return Content.assemble(("swap +0", "dim"))
    return Content.assemble(
        (f"swap +{format_gigabytes(sample.swap_growth)} GB", "bold $text-warning")
    )
