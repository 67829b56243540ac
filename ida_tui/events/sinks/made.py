"""Creation of the sinks that a profile lists in ``report_to``."""

from __future__ import annotations

from collections.abc import Iterable

from ida_tui.events.sinks.base import Sink


def create_sinks(names: Iterable[str]) -> list[Sink]:
    """One sink per name, without duplicates; opens nothing and imports no third-party package yet."""
    from ida_tui.events.sinks.csv import CsvSink
    from ida_tui.events.sinks.tensorboard import TensorBoardSink
    from ida_tui.events.sinks.trackio import TrackioSink
    from ida_tui.events.sinks.wandb import WandbSink

    types: dict[str, type[Sink]] = {
        sink.name: sink for sink in (CsvSink, TensorBoardSink, TrackioSink, WandbSink)
    }
    return [types[name]() for name in dict.fromkeys(names)]
