"""A run in a thread of its own: start it, read its records from a queue, stop it, join it.

    session = Session(config, key=key, argv=sys.argv)
    session.start()
    while (record := session.next_record(timeout=0.25)) is not None or not session.finished:
        ...
    session.raise_if_refused()

The thread is the only one that imports torch and touches the device. Only frozen records come out of
it; only requests to stop, to pause and to go on, and the answer to a pause, go in.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from ida_tui.config.devices import chosen_device
from ida_tui.config.schema import Config
from ida_tui.engine.run.control import Control
from ida_tui.engine.run.decision import GoOn
from ida_tui.errors import IdaError
from ida_tui.events.types import Record
from ida_tui.runs.resume import Resumption
from ida_tui.system import allocator


class Session:
    """One run of one resolved profile.

    Args:
        config: the resolved profile.
        key: the judge's API key, where it needs one; never written anywhere.
        argv: the command line as typed, for the manifest.
        resume: the run to go on with; null starts a new one.
        asks: whether somebody is there to answer when the run pauses; otherwise it ends there.
    """

    def __init__(
        self,
        config: Config,
        *,
        key: str | None = None,
        argv: Sequence[str] = (),
        resume: Resumption | None = None,
        asks: bool = False,
    ) -> None:
        self.config = config
        self.judge = config.judge
        """The judge in use; another than the profile's once a pause was answered with it."""
        self.budget = config.budget
        """What it may cost, in US dollars; null is no limit."""
        self._key = key
        self._argv = list(argv)
        self._resume = resume
        self._decisions: queue.SimpleQueue[GoOn] | None = queue.SimpleQueue() if asks else None
        self._records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._control = Control()
        self._refusal: IdaError | None = None
        # A daemon, so that a second request to stop can leave without waiting for a device.
        self._thread = threading.Thread(target=self._main, name="ida-trainer", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        if chosen_device(self.config) == "cpu":
            # Elsewhere the host only loads the weights, and should give that memory back.
            allocator.keep_freed_memory()
        self._thread.start()

    def request_stop(self) -> None:
        """Ask the run to end; it writes a checkpoint first. Safe from any thread and from a signal."""
        self._control.request_stop()

    def request_pause(self) -> None:
        """Ask the run to pause after the step under way. Safe from any thread and from a signal."""
        self._control.request_pause()

    def request_go_on(self) -> None:
        """Ask a run that was paused so to go on."""
        self._control.go_on()

    def request_hand_over(self) -> None:
        """Ask the run to end after the step under way, so that another process can go on with it."""
        self._control.request_hand_over()

    @property
    def pausing(self) -> bool:
        """Whether somebody asked it to pause."""
        return self._control.pausing

    def go_on(self, answer: GoOn) -> None:
        """Answer a pause."""
        if self._decisions is not None:
            self.judge, self.budget = answer.judge, answer.budget
            self._decisions.put(answer)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the run to end."""
        return self._control.stop.is_set()

    def next_record(self, timeout: float) -> Record | None:
        """The next record, or None if none came within `timeout` seconds."""
        try:
            return self._records.get(timeout=timeout)
        except queue.Empty:
            return None

    def drain(self, most: int = 5000) -> list[Record]:
        """The records that have come since the last call, at most so many; never waits."""
        records: list[Record] = []
        while len(records) < most:
            try:
                records.append(self._records.get_nowait())
            except queue.Empty:
                break
        return records

    @property
    def refusal(self) -> IdaError | None:
        """What kept the run from starting, if anything did."""
        return self._refusal

    @property
    def finished(self) -> bool:
        """True once the thread has ended and every record has been read."""
        return not self._thread.is_alive() and self._records.empty()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def raise_if_refused(self) -> None:
        """Raise what kept the run from starting; a run that started tells by its RunEnded event.

        Raises:
            IdaError: the device, the model or the output folder could not be used.
        """
        if self._refusal is not None:
            raise self._refusal

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
            if self._control.handing_over:
                # This process may live on; the one that goes on needs the memory.
                from ida_tui.engine.device.device import give_back

                give_back(chosen_device(self.config))
        except IdaError as error:
            self._refusal = error
        except Exception as error:
            # A thread has nobody above it: whatever is not explained becomes a refusal that is shown.
            self._refusal = IdaError(
                f"the run could not start: {type(error).__name__}: {error}",
                "this is a defect of ida-tui, or a broken installation (`uv sync` repairs one)",
            )
            self._refusal.__cause__ = error
