"""Process that computes for the app: `python -m ida_tui.engine.process.host`, with a socket as its stdin.

It reads `messages.ToEngine` from the socket and answers with `messages.FromEngine`. A run is a `Session` in
this process, as in `ida-tui --run`, and a chat is a `Chat`. If the app ends without handing the run over, the
socket closes, and the run stops with a checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from ida_tui.engine.inference.chat import Chat
from ida_tui.engine.process.messages import (
    Ask,
    ChatEnded,
    FromEngine,
    HandedOver,
    NewChatEvent,
    NewRecords,
    RunFinished,
    StartChat,
    StartRun,
    ToEngine,
)
from ida_tui.engine.run.background import BackgroundRun, find_new_run
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode
from ida_tui.system import allocator
from ida_tui.system.signals import STOP_SIGNALS, handle_signals

BATCH_INTERVAL_S = 0.1
"""Time between two messages with records: the app draws four times a second."""
BATCH_RECORDS = 50
"""Most records of one message, so that reading one keeps the app's interpreter for about a millisecond."""
POLL_S = 0.1
"""Longest wait for a record or an event before something else is noticed."""


class AppConnection:
    """The socket to the app."""

    def __init__(self) -> None:
        self._connection = Connection(os.dup(0))
        self.is_open = True
        """Whether the app still reads what is sent."""
        # Nothing else may read the messages, such as a plugin that asks for input.
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def send(self, message: FromEngine) -> None:
        """Send a message, unless the app is gone."""
        if self.is_open:
            try:
                self._connection.send_bytes(pickle.dumps(message))
            except OSError:
                self.is_open = False

    def receive(self) -> ToEngine | None:
        """Wait for the next message; None if the app is gone."""
        try:
            message: ToEngine = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return message

    @contextlib.contextmanager
    def ending_with_app(self) -> Iterator[None]:
        """End this process as soon as the app is gone, without finishing the block."""
        finished = threading.Event()

        def watch() -> None:
            connection = select.poll()
            connection.register(self._connection.fileno(), 0)  # the end is always reported
            while not finished.is_set():
                if connection.poll(1000 * POLL_S):
                    os._exit(0)

        threading.Thread(target=watch, name="ida-app-watch", daemon=True).start()
        try:
            yield
        finally:
            finished.set()


class RunHost:
    """Trains a run of the app.

    Args:
        app: the socket to the app.
        start: the run.
    """

    def __init__(self, app: AppConnection, start: StartRun) -> None:
        self._app = app
        self._config = start.config
        self._session = Session(start.config, key=start.key, argv=start.argv, interactive=True)
        self._hand_over = threading.Event()

    def run(self) -> None:
        """Train the run to its end, forward its records and follow the app's requests."""
        handlers = {
            **dict.fromkeys(STOP_SIGNALS, self._stop),
            signal.SIGUSR1: self._pause_or_resume,
        }
        with handle_signals(handlers):
            self._session.start()
            threading.Thread(target=self._follow_requests, name="ida-requests", daemon=True).start()
            while not self._session.finished:
                self._forward_records()
                if self._hand_over.is_set() and self._app.is_open:
                    self._leave_app()
        self._app.send(RunFinished(self._session.start_error))

    def _forward_records(self) -> None:
        """Send the records of the next interval."""
        first = self._session.next_record(timeout=POLL_S)
        if first is None:
            return
        time.sleep(BATCH_INTERVAL_S)
        records = [first, *self._session.drain()]
        for start in range(0, len(records), BATCH_RECORDS):
            self._app.send(NewRecords(tuple(records[start : start + BATCH_RECORDS])))

    def _leave_app(self) -> None:
        """Go on in the background, once there is a run directory for others to follow the run."""
        directory = find_new_run(self._config, os.getpid())
        if directory is not None:
            self._session.request_hand_over()
            self._app.send(HandedOver(BackgroundRun(os.getpid(), directory)))
            self._app.is_open = False

    def _follow_requests(self) -> None:
        while (message := self._app.receive()) is not None:
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

    def _stop(self) -> None:
        if self._session.stop_requested:
            os._exit(int(ExitCode.INTERRUPTED))
        self._session.request_stop()

    def _pause_or_resume(self) -> None:
        if self._session.pause_requested:
            self._session.request_resume()
        else:
            self._session.request_pause()


class ChatHost:
    """Holds a chat of the app.

    Args:
        app: the socket to the app.
        start: the run whose models chat.
    """

    def __init__(self, app: AppConnection, start: StartChat) -> None:
        self._app = app
        self._chat = Chat(start.directory, start.overrides)

    def run(self) -> None:
        """Chat until the app closes the chat or is gone."""
        self._chat.start()
        threading.Thread(target=self._follow_requests, name="ida-requests", daemon=True).start()
        while (event := self._chat.next_event(POLL_S)) is not None or not self._chat.join(0):
            if event is not None:
                self._app.send(NewChatEvent(event))
        self._app.send(ChatEnded())

    def _follow_requests(self) -> None:
        while (message := self._app.receive()) is not None:
            match message:
                case Ask(text, kind, temperature):
                    self._chat.ask(text, kind=kind, temperature=temperature)
                case "judge":
                    self._chat.judge()
                case "start_over":
                    self._chat.start_over()
                case "stop":
                    self._chat.stop()
                case "close":
                    self._chat.close()
        self._chat.close()


def import_libraries() -> None:
    """Import what a run imports. An error of an import is left to the run, which reports it."""
    from ida_tui.engine import libraries
    from ida_tui.planning.hub_models import switch_off_here

    libraries.set_library_defaults(None)
    switch_off_here()
    with contextlib.suppress(Exception), libraries.without_loggers(), libraries.without_gc():
        from ida_tui.engine.run import build, loop  # noqa: F401
    gc.collect()
    allocator.release_free_memory()


def main() -> None:
    """Wait for a run or a chat, and end the process with it."""
    faulthandler.enable()
    app = AppConnection()
    while (message := app.receive()) is not None:
        match message:
            case "prepare":
                # Not in a second thread: two threads that import transformers at once can each find it
                # half imported.
                with app.ending_with_app():
                    import_libraries()
            case StartRun():
                RunHost(app, message).run()
                break
            case StartChat():
                ChatHost(app, message).run()
                break
    sys.stdout.flush()
    sys.stderr.flush()
    # Destroying the objects of the libraries would take seconds.
    os._exit(0)


if __name__ == "__main__":
    main()
