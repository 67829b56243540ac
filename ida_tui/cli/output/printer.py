"""Printers of a run: lines for people, and events as JSON lines for programs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from ida_tui.cli.output.streams import BackgroundStream
from ida_tui.config.schema import Config
from ida_tui.events import codec, narration
from ida_tui.events import types as ev
from ida_tui.events.codec import EventError
from ida_tui.events.state import RunState
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.util.plugin_output import own_stdout
from ida_tui.util.text import multiple_lines, one_line

LOG_POLL_INTERVAL_S = 0.2


class Printer(Protocol):
    """Output of a run without the app."""

    def print_header(self, config: Config) -> None:
        """Print the config before the run starts."""

    def print_record(self, state: RunState, record: ev.Record) -> None:
        """Print one record; `state` already includes it."""

    def print_message(self, text: str) -> None:
        """Print a message to the user that is not part of the run's records."""

    def close(self) -> None:
        """Restore the terminal."""


class HumanPrinter:
    """Lines on stdout; on a terminal, a live line below them shows the progress."""

    def __init__(self) -> None:
        # Rich honors NO_COLOR and detects whether stdout is a terminal.
        self._console = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._spinner = Spinner("dots", text="starting")

    def print_header(self, config: Config) -> None:
        self._console.print(styled_line(narration.config_loaded_line(config)))
        if self._console.is_terminal:
            self._live = _ProgressLine(
                self._spinner, console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def print_record(self, state: RunState, record: ev.Record) -> None:
        for line in narration.event_lines(state, record.event):
            self._console.print(styled_line(line))
        self._spinner.update(text=Text(one_line(narration.progress_line(state, datetime.now(UTC)))))

    def print_message(self, text: str) -> None:
        if self._live is not None:
            # Printed through the console, so that it appears above the live line.
            self._console.print(Text(multiple_lines(text)))
        else:
            print(multiple_lines(text), file=sys.stderr)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _ProgressLine(Live):
    """The live line; it is not redrawn while the terminal does not accept output, such as after Ctrl-S."""

    def refresh(self) -> None:
        if not _is_behind(own_stdout()):
            super().refresh()


class JsonPrinter:
    """Every event as one JSON line on stdout, as in events.jsonl; messages on stderr.

    While the reader of a live run has stalled, the lines wait on disk instead of in memory: the rest is then
    read from events.jsonl, so that no line is lost.
    """

    def __init__(self) -> None:
        self._reads_log = False
        self._is_closed = threading.Event()

    def print_header(self, config: Config) -> None:
        self.print_message(narration.config_loaded_line(config))

    def print_record(self, state: RunState, record: ev.Record) -> None:
        if self._reads_log:
            return
        stdout = own_stdout()
        if isinstance(stdout, BackgroundStream) and stdout.is_behind and state.run is not None:
            self._reads_log = True
            stdout.write_each(
                self._rest_of_log(RunDirectory(Path(state.run.directory)), record.seq)
            )
            return
        sys.stdout.write(codec.encode(record) + "\n")
        sys.stdout.flush()

    def print_message(self, text: str) -> None:
        print(multiple_lines(text), file=sys.stderr)

    def close(self) -> None:
        self._is_closed.set()
        sys.stdout.flush()

    def _rest_of_log(self, directory: RunDirectory, first_seq: int) -> Iterator[str]:
        """The lines of a live run from one record on, until the printer is closed and all are read."""
        follower = Follower(directory.events)
        while True:
            is_last = self._is_closed.is_set()
            try:
                records = follower.read(limit=100)
            except (EventError, OSError) as error:
                self.print_message(f"! could not read {directory.events}: {error}")
                return
            yield from (codec.encode(r) + "\n" for r in records if r.seq >= first_seq)
            if is_last and not records:
                return
            if not records:
                self._is_closed.wait(LOG_POLL_INTERVAL_S)


def _is_behind(stream: object) -> bool:
    # Rich wraps the stream of the terminal while it shows a live line.
    stream = getattr(stream, "rich_proxied_file", stream)
    return isinstance(stream, BackgroundStream) and stream.is_behind


def styled_line(line: str) -> Text:
    """Color the mark at the start of a line; the text alone carries the meaning."""
    style = {"✓": "green", "!": "yellow", "✗": "red", "⏱": "cyan"}.get(line[:1], "")
    text = Text(one_line(line))
    if style:
        text.stylize(style, 0, 1)
    if line.startswith("Step "):
        text.highlight_regex(r"R_IDA=\S+", "bold")
    return text
