"""The sinks that a profile names."""

from __future__ import annotations

from collections.abc import Iterable

from ida_tui.events.sinks.base import Sink


def sinks(names: Iterable[str]) -> list[Sink]:
    """One sink a name; nothing is opened and no package imported yet."""
    from ida_tui.events.sinks.csv import Table
    from ida_tui.events.sinks.tensorboard import TensorBoard
    from ida_tui.events.sinks.trackio import Trackio
    from ida_tui.events.sinks.wandb import Wandb

    made: dict[str, type[Sink]] = {sink.name: sink for sink in (Table, TensorBoard, Trackio, Wandb)}
    return [made[name]() for name in dict.fromkeys(names)]
