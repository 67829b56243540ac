"""Standard streams of a command: closed, full or stalled ones neither end nor block its work.

A command that lists something writes directly, and `OutputError` ends it when its output cannot be written.
A command that trains or evaluates writes through `background_output`, whose threads wait for slow readers.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

PIECE_BYTES = 4096
"""Largest single write; a pipe takes it at once or not at all."""
BEHIND_WRITES = 1000
"""Number of waiting writes above which a stream counts as behind its reader."""
STALL_LIMIT_S = 90.0
"""Seconds without progress after which a finished command stops waiting for its reader."""
SECOND_STALL_LIMIT_S = 5.0
"""The same for stderr if stdout has already stalled."""


class OutputError(Exception):
    """The output of a command cannot be written.

    Args:
        cause: the error of the write.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.reader_is_gone = cause.errno == errno.EPIPE
        """Whether the reader closed the pipe, as `head` does; the command then has nothing left to do."""
        self.text = f"could not write the output: {cause.strerror or cause}"


def open_standard_streams() -> None:
    """Make the standard streams of this process safe; call it once, before anything is printed.

    A closed descriptor is opened on the null device, so that no file of a run gets its number. A failed write
    to stdout raises `OutputError` once and is then ignored; a failed write to stderr is always ignored.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is returned, which is this descriptor.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = _open_output(sys.stdout, 1, raises=True)
    sys.stderr = _open_output(sys.stderr, 2, raises=False)


def silence(descriptor: int) -> None:
    """Send everything that is written to a descriptor from now on to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class _RawOutput(io.RawIOBase):
    """A descriptor for output, on which one failed write ends all others."""

    def __init__(self, descriptor: int, *, raises: bool) -> None:
        self._descriptor = descriptor
        self._raises = raises
        self._failed = False

    def write(self, data: Any) -> int:
        if not self._failed:
            try:
                _write_all(self._descriptor, bytes(data))
            except OSError as error:
                self._failed = True
                if self._raises:
                    raise OutputError(error) from None
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def _open_output(stream: TextIO | None, descriptor: int, *, raises: bool) -> TextIO:
    raw = _RawOutput(descriptor, raises=raises)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        # A terminal without a character shows a replacement.
        errors="replace",
        line_buffering=raw.isatty() or not raises,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes; waits for the reader also if the descriptor does not block."""
    while data:
        try:
            data = data[os.write(descriptor, data[:PIECE_BYTES]) :]
        except BlockingIOError:
            select.select([], [descriptor], [], 1.0)


class BackgroundStream(io.TextIOBase):
    """A text stream whose writes return at once; a thread of its own writes them to the target, in order.

    The thread is a daemon: a reader that never reads does not keep the process alive.

    Args:
        target: the stream to write to.
    """

    def __init__(self, target: TextIO) -> None:
        self.target = target
        self.error: OSError | None = None
        """Why nothing more can be written; None while the target works."""
        self._pending: queue.SimpleQueue[str | Iterable[str] | None] = queue.SimpleQueue()
        self._pieces_written = 0
        self._has_warned = False
        self._descriptor = _descriptor_of(target)
        target.flush()
        self._thread = threading.Thread(target=self._write_pending, name="ida-output", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.target.encoding

    def write(self, text: str) -> int:
        """Queue text; safe from any thread and from a signal handler."""
        self._pending.put(text)
        return len(text)

    def write_each(self, texts: Iterable[str]) -> None:
        """Queue texts that are produced one by one, only as fast as the target takes them."""
        self._pending.put(texts)

    @property
    def is_behind(self) -> bool:
        """Whether many writes are waiting, because the reader is slow or has stalled."""
        return self._pending.qsize() > BEHIND_WRITES

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.target.isatty()

    def fileno(self) -> int:
        return self.target.fileno()

    def finish(self, stall_limit_s: float) -> bool:
        """Wait until everything is written.

        Args:
            stall_limit_s: seconds without progress after which to give up.

        Returns:
            Whether all of it was written, or the target failed and takes nothing more.
        """
        self._pending.put(None)
        written, since = -1, time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            if self._pieces_written != written:
                written, since = self._pieces_written, time.monotonic()
            elif time.monotonic() - since > stall_limit_s:
                self.silence()
                return False
        return True

    def silence(self) -> None:
        """Send later writes to the descriptor, such as those of a native library, to the null device."""
        if self._descriptor is not None:
            silence(self._descriptor)

    def _write_pending(self) -> None:
        while (item := self._pending.get()) is not None:
            for text in (item,) if isinstance(item, str) else item:
                if self.error is not None:
                    break
                try:
                    self._write(text)
                except OSError as error:
                    self.error = error
                    self._warn_that_output_is_lost(error)
                    self.silence()

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self.target.write(text)
            self.target.flush()
            return
        data = text.encode(self.encoding, "replace")
        for start in range(0, len(data), PIECE_BYTES):
            _write_all(self._descriptor, data[start : start + PIECE_BYTES])
            self._pieces_written += 1

    def _warn_that_output_is_lost(self, error: OSError) -> None:
        """Print one line on stderr, unless stderr is what failed."""
        if self.target is getattr(sys.stderr, "target", sys.stderr):
            return
        reason = "was closed by its reader"
        if error.errno != errno.EPIPE:
            reason = f"cannot be written ({error.strerror or error})"
        print(f"! stdout {reason}; the command continues without it", file=sys.stderr)


@dataclass(slots=True)
class BackgroundOutput:
    """The streams of a command while `background_output` is active."""

    stdout: BackgroundStream
    stderr: BackgroundStream

    def finish(self) -> None:
        """Wait until both streams are written; if a reader stalls for too long, say so and give up."""
        is_written = self.stdout.finish(STALL_LIMIT_S)
        if self.stderr is self.stdout:
            return
        if not is_written:
            print(
                f"! nothing read stdout for {STALL_LIMIT_S:.0f} s: the rest of the output is not printed",
                file=self.stderr,
            )
        self.stderr.finish(STALL_LIMIT_S if is_written else SECOND_STALL_LIMIT_S)


@contextlib.contextmanager
def background_output() -> Iterator[BackgroundOutput]:
    """Inside the block, `sys.stdout` and `sys.stderr` never block and never raise.

    At the end, waits until everything is written. Ctrl-C ends that wait.
    """
    originals = sys.stdout, sys.stderr
    stdout = BackgroundStream(sys.stdout)
    # One queue for both if they are the same terminal or file, so that lines stay in order.
    stderr = stdout if _are_same_file(*originals) else BackgroundStream(sys.stderr)
    output = BackgroundOutput(stdout, stderr)
    sys.stdout, sys.stderr = stdout, stderr
    try:
        yield output
    finally:
        try:
            output.finish()
        except KeyboardInterrupt:
            stdout.silence()
            stderr.silence()
        finally:
            sys.stdout, sys.stderr = originals


def _descriptor_of(stream: TextIO) -> int | None:
    """The descriptor of a stream; None if it has none, such as one in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _are_same_file(first: TextIO, second: TextIO) -> bool:
    descriptors = _descriptor_of(first), _descriptor_of(second)
    if descriptors[0] is None or descriptors[1] is None:
        return False
    return os.path.samestat(os.fstat(descriptors[0]), os.fstat(descriptors[1]))
