"""Creation of the sinks that a profile lists in ``report_to``."""

from __future__ import annotations

from collections.abc import Iterable

from ida_tui.events.sinks.base import Sink


def sinks(names: Iterable[str]) -> list[Sink]:
    """One sink per name, without duplicates; opens nothing and imports no third-party package yet."""
    from ida_tui.events.sinks.csv import Table
    from ida_tui.events.sinks.tensorboard import TensorBoard
    from ida_tui.events.sinks.trackio import Trackio
    from ida_tui.events.sinks.wandb import Wandb

    types: dict[str, type[Sink]] = {
        sink.name: sink for sink in (Table, TensorBoard, Trackio, Wandb)
    }
    return [types[name]() for name in dict.fromkeys(names)]
