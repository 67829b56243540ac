"""Training run in a process of its own, behind the interface of `Session`."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine.process.engine import EngineProcess
from ida_tui.engine.process.messages import (
    HandedOver,
    NewRecords,
    RunFinished,
    RunRequest,
    StartRun,
)
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.engine.session import Session
from ida_tui.errors import IdaError


class ProcessSession(Session):
    """One run in a process of its own. The thread of the session only reads what that process sends.

    Args:
        config: the resolved profile.
        key: the judge's API key, or null if it needs none.
        argv: the command line as typed, for the manifest.
        engine: the process; null starts one.
    """

    def __init__(
        self,
        config: Config,
        *,
        key: JudgeKey = None,
        argv: Sequence[str] = (),
        engine: EngineProcess | None = None,
    ) -> None:
        super().__init__(config, key=key, argv=argv)
        self._engine = engine

    def start(self) -> None:
        """Start the process and the thread; returns immediately."""
        try:
            self._engine = self._engine or EngineProcess()
        except IdaError as error:
            self._start_error = error
            return
        self._engine.send(StartRun(self.config, self._key, self._argv))
        self._thread.start()

    def request_stop(self) -> None:
        """Stop the run after saving a checkpoint."""
        super().request_stop()
        self._send("stop")

    def request_pause(self) -> None:
        """Pause the run after the current step."""
        super().request_pause()
        self._send("pause")

    def request_resume(self) -> None:
        """Resume a run that was paused by `request_pause`."""
        super().request_resume()
        self._send("resume")

    def request_hand_over(self) -> None:
        """Let the run go on in the background, also when the app has ended; its process stays the same."""
        self._send("hand_over")

    @property
    def handed_over(self) -> bool:
        """Whether the run goes on in the background."""
        return self.background_run is not None

    def resume_with(self, decision: ResumeDecision) -> None:
        """Resume a run that waits for a decision on its judge."""
        self.judge, self.budget = decision.judge, decision.budget
        self._send(decision)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the run has ended or was handed over."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _send(self, message: RunRequest | ResumeDecision) -> None:
        if self._engine is not None:
            self._engine.send(message)

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        engine = self._engine
        assert engine is not None
        try:
            self._receive(engine)
        except (EOFError, OSError):
            self.died = engine.how_it_ended()
        engine.close()

    def _receive(self, engine: EngineProcess) -> None:
        """Take what the process sends, until the run has ended or was handed over.

        Raises:
            EOFError: the process has ended.
            OSError: the process has ended.
        """
        while True:
            match engine.receive():
                case NewRecords(records):
                    for record in records:
                        self._records.put(record)
                case HandedOver(run):
                    self.background_run = run
                    return
                case RunFinished(error):
                    self._start_error = error
                    engine.how_it_ended()  # its memory is free
                    return
