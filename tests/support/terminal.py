"""A process on a pseudo-terminal, whose output is read while it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import selectors
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence

from tests.support.patience import PATIENCE_S


class Terminal:
    """A process on a pseudo-terminal.

    Args:
        argv: the command.
        size: columns and rows.
        environment: variables to add to the environment of this process.
    """

    def __init__(
        self, argv: Sequence[str], *, size: tuple[int, int] = (120, 40), **environment: str
    ) -> None:
        self._parent_end, child_end = pty.openpty()
        fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._child_end = child_end
        self._open: tuple[int, ...] = (self._parent_end, child_end)
        self._original_attributes = termios.tcgetattr(child_end)
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            argv,
            stdin=child_end,
            stdout=child_end,
            stderr=child_end,
            env=inherited | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
        )
        self.output = b""

    def send(self, keys: str) -> None:
        """Type keys."""
        os.write(self._parent_end, keys.encode())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Read what the process draws until a condition is true.

        Raises:
            TimeoutError: the condition stayed false; the message has the last output.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self.read(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(self.output[-3000:].decode(errors="replace"))

    def wait_for(self, text: str) -> None:
        """Read until the process has drawn this text."""
        self.wait_until(lambda: text.encode() in self.output)

    def read(self, timeout: float) -> None:
        """Read what the process has drawn."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._parent_end, selectors.EVENT_READ)
            if selector.select(timeout):
                with contextlib.suppress(OSError):
                    self.output += os.read(self._parent_end, 65536)

    def wait_for_exit(self) -> int:
        """Read until the process has ended and return its exit status."""
        self.wait_until(lambda: self.process.poll() is not None)
        self.read(0.05)
        return int(self.process.returncode)

    @property
    def is_restored(self) -> bool:
        """True if line discipline, screen and cursor are restored and mouse and paste reports are off."""
        last = {
            name: self.output.rfind(f"\x1b[?{name}l".encode())
            > self.output.rfind(f"\x1b[?{name}h".encode())
            for name in ("1049", "1000", "1003", "2004")
        }
        cursor = self.output.rfind(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l")
        return all(last.values()) and cursor and self.attributes == self._original_attributes

    @property
    def attributes(self) -> list[object]:
        """The current line discipline."""
        return termios.tcgetattr(self._child_end)

    def hang_up(self) -> None:
        """Close the terminal of the process, without sending it a signal."""
        for file in self._open:
            os.close(file)
        self._open = ()

    def close(self) -> None:
        """Kill the process if it is running, and close the terminal."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()


@contextlib.contextmanager
def terminal(
    *argv: str, size: tuple[int, int] = (120, 40), **environment: str
) -> Iterator[Terminal]:
    """A process on a terminal; it is ended at the end of the block."""
    opened = Terminal(argv, size=size, **environment)
    try:
        yield opened
    finally:
        opened.close()
