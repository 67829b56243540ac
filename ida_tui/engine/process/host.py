"""Process that trains a run of the app: `python -m ida_tui.engine.process.host`, with a socket as its stdin.

It reads `messages.ToEngine` from the socket and answers with `messages.FromEngine`. The run itself is a
`Session` in this process, as in `ida-tui --run`. If the app ends without handing the run over, even by a
crash, the socket closes, and the run stops with a checkpoint.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from ida_tui.engine.process.messages import (
    FromEngine,
    HandedOver,
    NewRecords,
    RunFinished,
    StartRun,
    ToEngine,
)
from ida_tui.engine.run.background import BackgroundRun, find_new_run
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode, IdaError
from ida_tui.system.signals import STOP_SIGNALS, handle_signals

BATCH_INTERVAL_S = 0.1
"""Time between two messages with records: the app draws four times a second."""
BATCH_RECORDS = 50
"""Most records of one message, so that reading one keeps the app's interpreter for about a millisecond."""
POLL_S = 0.1
"""Longest wait for a record before a request to hand over is noticed."""


class Host:
    """Trains the run of one app.

    Args:
        connection: the socket to the app.
        start: the run.
    """

    def __init__(self, connection: Connection, start: StartRun) -> None:
        self._connection = connection
        self._config = start.config
        self._session = Session(start.config, key=start.key, argv=start.argv, interactive=True)
        self._hand_over = threading.Event()
        self._connected = True

    def run(self) -> None:
        """Train the run to its end, forward its records and follow the app's requests."""
        threading.Thread(target=self._follow_requests, name="ida-requests", daemon=True).start()
        handlers = {
            **dict.fromkeys(STOP_SIGNALS, self._stop),
            signal.SIGUSR1: self._pause_or_resume,
        }
        with handle_signals(handlers):
            self._session.start()
            while not self._session.finished:
                self._forward_records()
                if self._hand_over.is_set() and self._connected:
                    self._leave_app()
        error = self._session.start_error
        self._send(RunFinished(_plain(error) if error is not None else None))

    # -- to the app ---------------------------------------------------------------------------

    def _forward_records(self) -> None:
        """Send the records of the next interval."""
        first = self._session.next_record(timeout=POLL_S)
        if first is None:
            return
        if self._connected:
            time.sleep(BATCH_INTERVAL_S)
        records = [first, *self._session.drain()]
        for start in range(0, len(records), BATCH_RECORDS):
            self._send(NewRecords(tuple(records[start : start + BATCH_RECORDS])))

    def _leave_app(self) -> None:
        """Go on in the background, once there is a run directory for others to follow the run."""
        directory = find_new_run(self._config, os.getpid())
        if directory is None:
            return
        self._session.request_hand_over()
        self._send(HandedOver(BackgroundRun(os.getpid(), directory)))
        self._connected = False

    def _send(self, message: FromEngine) -> None:
        if not self._connected:
            return
        try:
            self._connection.send_bytes(pickle.dumps(message))
        except OSError:
            self._connected = False  # the app is gone; the other thread stops the run

    # -- from the app -------------------------------------------------------------------------

    def _follow_requests(self) -> None:
        while True:
            try:
                message: ToEngine = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                break
            match message:
                case ResumeDecision():
                    self._session.resume_with(message)
                case "stop":
                    self._hand_over.clear()
                    self._session.request_stop()
                case "pause":
                    self._session.request_pause()
                case "resume":
                    self._session.request_resume()
                case "hand_over":
                    self._hand_over.set()
        if not self._session.handed_over:
            self._session.request_stop()

    # -- signals ------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._session.stop_requested:
            os._exit(int(ExitCode.INTERRUPTED))
        self._session.request_stop()

    def _pause_or_resume(self) -> None:
        if self._session.pause_requested:
            self._session.request_resume()
        else:
            self._session.request_pause()


def _plain(error: IdaError) -> IdaError:
    """The error without the fields and causes of its class, which may not be possible to pickle."""
    return IdaError(error.title, error.hint, where=error.where, code=error.code)


def main() -> None:
    """Wait for a run, train it, and end the process."""
    faulthandler.enable()
    connection = Connection(os.dup(0))
    # Nothing else may read the messages, such as a plugin that asks for input.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        start = pickle.loads(connection.recv_bytes())
    except EOFError:
        return  # the app has ended, or needs no run
    Host(connection, start).run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Destroying the objects of the libraries would take seconds.
    os._exit(0)


if __name__ == "__main__":
    main()
