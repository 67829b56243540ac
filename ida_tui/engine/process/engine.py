"""Process that computes for the app, and the socket to it.

Importing torch keeps the interpreter of a process busy for seconds, and what computes competes for it
afterwards. Therefore the app imports no torch: its runs and chats are in processes of their own.
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
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ida_tui.errors import IdaError, short_text

if TYPE_CHECKING:
    from ida_tui.engine.process.messages import FromEngine, ToEngine

PYTHON = [sys.executable, "-P"]
"""The interpreter of the process; it does not search the working directory for modules."""


class EngineProcess:
    """A process that waits for a run or a chat. It ends when that has ended, or the connection closes.

    Args:
        purpose: what the process is for, as an error says it: `run` or `chat`.

    Raises:
        IdaError: the system refuses another process.
    """

    def __init__(self, purpose: str = "run") -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*PYTHON, "-m", f"{__package__}.host"],
                    stdin=theirs.fileno(),
                    # Signals of the terminal are for the app, which decides what they mean for a run.
                    start_new_session=True,
                    env=os.environ,
                )
        except OSError as error:
            raise IdaError(
                f"the {purpose} could not start: no process for it: {short_text(error)}",
                f"close other programs, then start the {purpose} again",
            ) from None
        self._connection = Connection(ours.detach())
        self._messages: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
        self._sender = threading.Thread(
            target=self._send_messages, name="ida-engine-sender", daemon=True
        )
        self._sender.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def send(self, message: ToEngine) -> None:
        """Send a message; returns immediately. A process that has ended misses it."""
        self._messages.put(message)

    def receive(self) -> FromEngine:
        """Wait for the next message.

        Raises:
            EOFError: the process has ended.
            OSError: the process has ended.
        """
        message: FromEngine = pickle.loads(self._connection.recv_bytes())
        return message

    def close(self) -> None:
        """Close the connection after everything was sent, and wait for the end in another thread.

        A process that has ended stays in the system's table until then.
        """
        self._messages.put(None)
        threading.Thread(target=self._process.wait, name="ida-engine-end", daemon=True).start()

    def how_it_ended(self) -> str:
        """Wait for the end of the process; returns how it ended, as a clause."""
        status = self._process.wait()
        if status >= 0:
            return f"its process ended with exit status {status}"
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process was ended by signal {-status}"

    def _send_messages(self) -> None:
        with self._connection, contextlib.suppress(OSError):
            while (message := self._messages.get()) is not None:
                self._connection.send_bytes(pickle.dumps(message))
