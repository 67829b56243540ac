"""TensorBoard sink: event files in the run directory, written with TensorBoard's writer and without torch.

The format stores scalars as 32-bit floats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo, SinkEvent, event_metrics, step_metrics

FOLDER = "tensorboard"
FLUSH_INTERVAL_S = 10
"""Maximum seconds until written metrics are flushed to disk."""


class TensorBoardSink:
    """Writes scalars by step, and the settings of the run as text."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._folder = Path()

    def start(self, run: RunInfo) -> str:
        """Open an event file; after a resume, mark the steps after the checkpoint as outdated."""
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = run.directory / FOLDER
        self._writer = EventFileWriter(str(self._folder), flush_secs=FLUSH_INTERVAL_S)
        if run.resumed_from is not None:
            restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add_event(run.resumed_from + 1, session_log=restart)
            return ""
        table = ["| setting | value |", "|---|---|"]
        table += [f"| {name} | {_table_cell(value)} |" for name, value in run.settings.items()]
        self._add_event(0, summary=_text_summary("settings", "\n".join(table)))
        return ""

    def step(self, step: ev.StepFinished) -> None:
        """Write the scalars of a step."""
        self._write_scalars(step.step, step_metrics(step))

    def note(self, note: SinkEvent) -> None:
        """Write the scalars of an evaluation or an alert."""
        self._write_scalars(note.step, event_metrics(note))

    def end(self, ended: ev.RunEnded) -> str:
        """Close the file."""
        self._writer.close()
        return f"TensorBoard: tensorboard --logdir {self._folder}"

    def _write_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        self._add_event(step, summary=summary_pb2.Summary(value=values))

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, **content))


def _text_summary(tag: str, text: str) -> Any:
    """A text summary in the format of TensorBoard's text plugin, whose own helper needs TensorFlow."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()])
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    value = summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
    return summary_pb2.Summary(value=[value])


def _table_cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
