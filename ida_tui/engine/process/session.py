"""Training run in a process of its own, behind the interface of `Session`.

The app starts its runs here: importing torch keeps the interpreter of a process busy for seconds, and a
trainer competes for it afterwards. The process ends with its run. It stops the run with a checkpoint
if the app is gone, unless the run was handed over.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine.process.messages import (
    FromEngine,
    HandedOver,
    NewRecords,
    RunFinished,
    StartRun,
    ToEngine,
)
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.engine.session import Session
from ida_tui.errors import IdaError, short_text

PYTHON = [sys.executable, "-P"]
"""The interpreter of the process; it does not search the working directory for modules."""


class EngineProcess:
    """A process that waits for a run to train; it ends when the connection closes.

    Raises:
        OSError: the system refuses another process.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*PYTHON, "-m", f"{__package__}.host"],
                stdin=theirs,
                # Signals of the terminal are for the app, which decides what they mean for the run.
                start_new_session=True,
                env=os.environ,
            )
        self.connection = Connection(ours.detach())


class ProcessSession(Session):
    """One run in a process of its own. The thread of the session only talks to that process.

    Args:
        config: the resolved profile.
        key: the judge's API key, or null if it needs none.
        argv: the command line as typed, for the manifest.
    """

    def __init__(self, config: Config, *, key: JudgeKey = None, argv: Sequence[str] = ()) -> None:
        super().__init__(config, key=key, argv=argv)
        self._messages: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
        self._messages.put(StartRun(config, key, list(argv)))

    def start(self) -> None:
        """Start the process; returns immediately."""
        self._thread.start()

    def request_stop(self) -> None:
        """Stop the run after saving a checkpoint."""
        super().request_stop()
        self._messages.put("stop")

    def request_pause(self) -> None:
        """Pause the run after the current step."""
        super().request_pause()
        self._messages.put("pause")

    def request_resume(self) -> None:
        """Resume a run that was paused by `request_pause`."""
        super().request_resume()
        self._messages.put("resume")

    def request_hand_over(self) -> None:
        """Let the run go on in the background, also when the app has ended; its process stays the same."""
        self._messages.put("hand_over")

    @property
    def handed_over(self) -> bool:
        """Whether the run goes on in the background."""
        return self.background_run is not None

    def resume_with(self, decision: ResumeDecision) -> None:
        """Resume a run that waits for a decision on its judge."""
        self.judge, self.budget = decision.judge, decision.budget
        self._messages.put(decision)

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            engine = EngineProcess()
        except OSError as error:
            self._start_error = IdaError(
                f"the run could not start: no process for it: {short_text(error)}",
                "close other programs, then start the run again",
            )
            return
        sender = threading.Thread(
            target=self._send_messages, args=[engine.connection], name="ida-sender", daemon=True
        )
        sender.start()
        try:
            self._receive(engine)
        except (EOFError, OSError):
            self.died = _how_it_ended(engine.process.wait())
        finally:
            self._messages.put(None)
        if self.background_run is None:
            engine.process.wait()
        else:
            # It is still a child of this process, which has to take note of its end.
            threading.Thread(target=engine.process.wait, name="ida-reaper", daemon=True).start()
        sender.join()
        engine.connection.close()

    def _receive(self, engine: EngineProcess) -> None:
        """Take what the process sends, until the run has ended or was handed over.

        Raises:
            EOFError: the process has ended.
            OSError: the process has ended.
        """
        while True:
            message: FromEngine = pickle.loads(engine.connection.recv_bytes())
            match message:
                case NewRecords():
                    for record in message.records:
                        self._records.put(record)
                case HandedOver():
                    self.background_run = message.run
                    return
                case RunFinished():
                    self._start_error = message.start_error
                    return

    def _send_messages(self, connection: Connection) -> None:
        with contextlib.suppress(OSError):  # the process has ended
            while (message := self._messages.get()) is not None:
                connection.send_bytes(pickle.dumps(message))


def _how_it_ended(status: int) -> str:
    """How a process ended, from its exit status."""
    if status >= 0:
        return f"its process ended with exit status {status}"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process was ended by signal {-status}"
