"""A real terminal for a real process: a pseudo-terminal whose output is read while it runs."""

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

CAPTURE_DEADLINE_S = 120.0


class Terminal:
    """A process on a pseudo-terminal.

    Args:
        argv: the command.
        size: columns and rows.
        environment: added to this process's own.
    """

    def __init__(
        self, argv: Sequence[str], *, size: tuple[int, int] = (120, 40), **environment: str
    ) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._theirs = theirs
        self._open: tuple[int, ...] = (self.ours, theirs)
        self.settings = termios.tcgetattr(theirs)
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
        )
        self.output = b""

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self.ours, keys.encode())

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Read what the process draws until something holds.

        Raises:
            TimeoutError: it never did; the message has the last that was drawn.
        """
        deadline = time.monotonic() + CAPTURE_DEADLINE_S
        while not true():
            self.read(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(self.output[-3000:].decode(errors="replace"))

    def wait_for(self, text: str) -> None:
        """Read until the process has drawn these words."""
        self.wait_until(lambda: text.encode() in self.output)

    def read(self, timeout: float) -> None:
        """Take in what has been drawn."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.ours, selectors.EVENT_READ)
            if selector.select(timeout):
                with contextlib.suppress(OSError):
                    self.output += os.read(self.ours, 65536)

    def wait_for_the_end(self) -> int:
        """Read until the process has ended; returns its exit status."""
        self.wait_until(lambda: self.process.poll() is not None)
        self.read(0.05)
        return int(self.process.returncode)

    @property
    def is_left_clean(self) -> bool:
        """Line discipline as before, main screen, cursor shown, mouse and paste reports off."""
        last = {
            name: self.output.rfind(f"\x1b[?{name}l".encode())
            > self.output.rfind(f"\x1b[?{name}h".encode())
            for name in ("1049", "1000", "1003", "2004")
        }
        cursor = self.output.rfind(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l")
        return all(last.values()) and cursor and self.attributes == self.settings

    @property
    def attributes(self) -> list[object]:
        """The line discipline as it is now."""
        return termios.tcgetattr(self._theirs)

    def hang_up(self) -> None:
        """Close the terminal under the process, which is sent no signal."""
        for file in self._open:
            os.close(file)
        self._open = ()

    def close(self) -> None:
        """End whatever is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()


@contextlib.contextmanager
def terminal(
    *argv: str, size: tuple[int, int] = (120, 40), **environment: str
) -> Iterator[Terminal]:
    """A process on a terminal, ended when the block is left."""
    opened = Terminal(argv, size=size, **environment)
    try:
        yield opened
    finally:
        opened.close()
