"""Training run in a background thread: start it, read its records from a queue, control it, join it.

    session = Session(config, key=key, argv=sys.argv)
    session.start()
    while (record := session.next_record(timeout=0.25)) is not None or not session.finished:
        ...
    session.raise_start_error()

The thread is the only one that imports torch and touches the device. Its output is a queue of frozen records;
its input is requests to stop, pause or resume, and decisions on a pause. In `process.session` the thread
only talks to a process that trains.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from ida_tui.config.devices import resolve_device
from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine.run.background import BackgroundRun
from ida_tui.engine.run.control import ResumeDecision, RunControl
from ida_tui.errors import (
    ExitCode,
    IdaError,
    missing_library_error,
    out_of_memory_message,
    short_text,
)
from ida_tui.events.types import Record
from ida_tui.runs.log.disk_errors import explain_disk_error
from ida_tui.runs.resume import ResumePoint
from ida_tui.system import allocator


class Session:
    """One run of one resolved profile.

    Args:
        config: the resolved profile.
        key: the judge's API key, or null if it needs none; never written to disk.
        argv: the command line as typed, for the manifest.
        resume: the run to resume; null starts a new one.
        interactive: whether a user can decide when the judge is unavailable; otherwise the run ends there.
    """

    def __init__(
        self,
        config: Config,
        *,
        key: JudgeKey = None,
        argv: Sequence[str] = (),
        resume: ResumePoint | None = None,
        interactive: bool = False,
    ) -> None:
        self.config = config
        self.judge = config.judge
        """The judge in use; a decision on a pause can replace the profile's judge."""
        self.budget = config.budget
        """Most that the judge may cost, in US dollars; null for no limit."""
        self.background_run: BackgroundRun | None = None
        """The run after it was handed over, if it has a process of its own."""
        self.died = ""
        """How the process of the run ended without ending the run, as a clause; empty if it did not."""
        self._key = key
        self._argv = list(argv)
        self._resume = resume
        self._decisions: queue.SimpleQueue[ResumeDecision] | None = (
            queue.SimpleQueue() if interactive else None
        )
        self._records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._control = RunControl()
        self._start_error: IdaError | None = None
        # A daemon thread, so that a second request to stop can exit without waiting for a device.
        self._thread = threading.Thread(target=self._main, name="ida-trainer", daemon=True)

    def start(self) -> None:
        """Start the thread; returns immediately."""
        if resolve_device(self.config) == "cpu":
            # With a GPU the host only loads the weights and should return that memory.
            allocator.keep_freed_memory()
        self._thread.start()

    def request_stop(self) -> None:
        """Stop the run after saving a checkpoint. Safe from any thread and from a signal handler."""
        self._control.request_stop()

    def request_pause(self) -> None:
        """Pause the run after the current step. Safe from any thread and from a signal handler."""
        self._control.request_pause()

    def request_resume(self) -> None:
        """Resume a run that was paused by `request_pause`."""
        self._control.request_resume()

    def request_hand_over(self) -> None:
        """Let the run go on in the background: a paused run resumes, and a missing judge ends it."""
        self._control.unattended.set()
        self._control.request_resume()

    @property
    def handed_over(self) -> bool:
        """Whether the run goes on in the background."""
        return self._control.unattended.is_set()

    @property
    def pause_requested(self) -> bool:
        """Whether a pause is requested."""
        return self._control.pause_requested

    def resume_with(self, decision: ResumeDecision) -> None:
        """Resume a run that waits for a decision on its judge."""
        if self._decisions is not None:
            self.judge, self.budget = decision.judge, decision.budget
            self._decisions.put(decision)

    @property
    def stop_requested(self) -> bool:
        """Whether a stop is requested."""
        return self._control.stop.is_set()

    def next_record(self, timeout: float) -> Record | None:
        """The next record, or None if there is none within `timeout` seconds."""
        try:
            return self._records.get(timeout=timeout)
        except queue.Empty:
            return None

    def drain(self, limit: int = 5000) -> list[Record]:
        """The records since the last call, at most `limit` of them; does not block."""
        records: list[Record] = []
        while len(records) < limit:
            try:
                records.append(self._records.get_nowait())
            except queue.Empty:
                break
        return records

    @property
    def start_error(self) -> IdaError | None:
        """The error that kept the run from starting, or None."""
        return self._start_error

    @property
    def finished(self) -> bool:
        """Whether the thread has ended and every record has been read."""
        return not self._thread.is_alive() and self._records.empty()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def raise_start_error(self) -> None:
        """Raise the error that kept the run from starting; a run that started reports errors in `RunEnded`.

        Raises:
            IdaError: the device, the model or the output folder could not be used.
        """
        if self._start_error is not None:
            raise self._start_error

    def _main(self) -> None:
        try:
            from ida_tui.engine.run.loop import train

            train(
                self.config,
                key=self._key,
                argv=self._argv,
                subscriber=self._records,
                control=self._control,
                resume=self._resume,
                decisions=self._decisions,
            )
        except IdaError as error:
            self._start_error = error
        except ModuleNotFoundError as error:
            self._start_error = missing_library_error(error)
        except Exception as error:
            # Nothing catches the exceptions of a thread: store it as an error to show.
            self._start_error = _explain_start_error(error, self.config)
            self._start_error.__cause__ = error


def _explain_start_error(error: Exception, config: Config) -> IdaError:
    """The error to show for an exception that kept a run from starting."""
    if message := out_of_memory_message(error):
        hint = f"close other programs, or see what needs memory: ida-tui --check {config.name}"
        return IdaError(message, hint, code=ExitCode.OUT_OF_MEMORY)
    folder = Path(config.output_dir).expanduser()
    if explained := explain_disk_error(error, folder, "then start or resume the run again"):
        return explained
    return IdaError(
        f"the run could not start: {type(error).__name__}: {short_text(error)}",
        "this is a bug in ida-tui, or a broken installation (run `uv sync` to repair it)",
    )
