"""Local copy of a run on another machine, kept up to date by a thread, for everything that reads runs.

    with open_mirror(parse_address("ssh://host/path/to/run"), may_prompt=True, report=print) as mirror:
        follow_run(mirror.directory, ...)

The copy is a private run directory with the events, the completions, the profile and the manifest. Only
whole lines are added, so that a lost connection continues after the last one. While the run is alive over
there, the copy looks like a run of another machine on a shared disk. A request to pause, resume or stop that
is written into the copy is passed on.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from ida_tui.errors import IdaError
from ida_tui.runs import control
from ida_tui.runs.control import ControlRequest
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.remote.address import RemoteAddress
from ida_tui.runs.remote.connection import Connection, ConnectionLost, connect
from ida_tui.util.paths import cache_folder
from ida_tui.util.safe_files import (
    MAX_LINE_BYTES,
    open_appended,
    remove_tree,
    replaced_file,
    write_text,
)

POLL_INTERVAL_S = 0.5
"""Seconds between two requests while the run is alive."""
IDLE_INTERVAL_S = 2.0
"""The same for a run that has ended: somebody may resume it."""
RECONNECT_DELAYS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds before each attempt to connect again; the last one repeats."""
CHUNK_BYTES = 1 << 20
"""Most bytes of one file in a reply."""
MAX_COPY_BYTES = 16 << 30
"""Largest file that is copied."""
MAX_TEXT_BYTES = 4 << 20
"""Largest profile or manifest that is copied."""
FOLDER = "remote"
"""Folder of the copies, in the cache folder."""


class Mirror:
    """A run of another machine and its copy; `open_mirror` makes one.

    Args:
        address: the run.
        directory: the copy, which is empty.
        connection: the first connection.
        report: receives lines about the connection, on the thread that copies.
    """

    def __init__(
        self,
        address: RemoteAddress,
        directory: RunDirectory,
        connection: Connection,
        report: Callable[[str], object],
    ) -> None:
        self.address = address
        self.directory = directory
        self._connection: Connection | None = connection
        self._report = report
        self._events = _CopiedFile(directory.events)
        self._completions = _CopiedFile(directory.completions)
        self._is_alive = False
        self._request: ControlRequest | None = None
        """A request that was not passed on yet."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ida-mirror", daemon=True)

    def copy_all(self, on_progress: Callable[[int, int], object] = lambda done, size: None) -> None:
        """Copy the events so far, the profile and the manifest.

        Args:
            on_progress: called with the bytes that are copied, and the size of the event log.

        Raises:
            ConnectionLost: the connection has ended.
            OSError: the copy cannot be written.
            IdaError: the run cannot be copied.
        """
        assert self._connection is not None
        open_appended(self.directory.events).close()
        for path in (self.directory.config, self.directory.manifest):
            data = self._connection.read_file(path.name, MAX_TEXT_BYTES)
            with replaced_file(path) as file:
                file.write(data)
        while self._copy_once(completions=False):
            on_progress(self._events.size, self._events.known_size)

    def start(self) -> None:
        """Keep the copy up to date from now on."""
        self._thread.start()

    def close(self) -> None:
        """End the connection. The run goes on."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(2 * IDLE_INTERVAL_S)
        if self._connection is not None:
            self._connection.close()

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._pass_request_on()
                    has_more = self._copy_once()
                except ConnectionLost as error:
                    self._reconnect(str(error))
                    continue
                if not has_more:
                    self._stopping.wait(POLL_INTERVAL_S if self._is_alive else IDLE_INTERVAL_S)
        except (OSError, IdaError) as error:
            self._report(f"✗ the copy of {self.address} ends here: {error}")

    def _copy_once(self, *, completions: bool = True) -> bool:
        """Copy what is new, at most `CHUNK_BYTES`; returns whether there is more."""
        assert self._connection is not None
        events, rows = self._events, self._completions
        rows_limit = rows.limit if completions else 0
        reply = self._connection.poll(events.size, events.limit, rows.size, rows_limit)
        events.known_size = reply.events_size
        has_more = events.append(reply.events)
        if completions:
            has_more = rows.append(reply.completions) or has_more
        if reply.is_alive or not has_more:
            self._set_alive(reply.is_alive)
        return has_more

    def _set_alive(self, is_alive: bool) -> None:
        """Make the copy look alive: it has an owner on another machine, and its event log is new."""
        if is_alive != self._is_alive:
            self._is_alive = is_alive
            if is_alive:
                owner = {"pid": 0, "started": 0, "host": str(self.address)}
                write_text(self.directory.owner, json.dumps(owner))
            else:
                self.directory.owner.unlink(missing_ok=True)
        if is_alive:
            os.utime(self.directory.events)

    def _pass_request_on(self) -> None:
        assert self._connection is not None
        self._request = control.pop_request(self.directory) or self._request
        if self._request is None:
            return
        if not self._connection.ask(self._request):
            self._report(
                f"✗ the run on {self.address.machine} can only be watched: its directory cannot be"
                " written to over there"
            )
        self._request = None

    def _reconnect(self, reason: str) -> None:
        """Connect again, as often as it takes; meanwhile the run counts as alive if it was."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        reported, attempt = "", 0
        while not self._stopping.is_set():
            if reason != reported:
                machine, reported = self.address.machine, reason
                self._report(f"! the connection to {machine} is lost ({reason}); trying again")
            self._set_alive(self._is_alive)
            delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
            if self._stopping.wait(delay):
                return
            attempt += 1
            try:
                self._connection = Connection(self.address)
            except ConnectionLost as error:
                reason = str(error)
            except IdaError as error:  # the run is gone, perhaps only for a moment
                reason = error.title
            else:
                self._report(f"✓ connected to {self.address.machine} again")
                return


class _CopiedFile:
    """The copy of one file that grows by whole lines.

    Args:
        path: the copy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0
        """Size of the copy, in bytes."""
        self.known_size = 0
        """Size of the file over there."""
        self.limit = CHUNK_BYTES
        """Most bytes to ask for; more if a line is longer."""

    def append(self, data: bytes) -> bool:
        """Add the whole lines of what follows the copy; returns whether there is more.

        Raises:
            IdaError: a line or the file is too large.
            OSError: it cannot be written.
        """
        has_more = bool(data) and len(data) >= self.limit
        end = data.rfind(b"\n") + 1
        if not end and has_more:
            if self.limit > MAX_LINE_BYTES:
                raise IdaError(
                    f"a line of {self._path.name} is longer than {MAX_LINE_BYTES >> 20} MB"
                )
            self.limit *= 2
            return True
        self.limit = CHUNK_BYTES
        if self.size + end > MAX_COPY_BYTES:
            raise IdaError(f"{self._path.name} is larger than {MAX_COPY_BYTES >> 30} GB")
        if end:
            with open_appended(self._path) as file:
                file.write(data[:end])
            self.size += end
        return has_more


@contextlib.contextmanager
def open_mirror(
    address: RemoteAddress,
    *,
    may_prompt: bool,
    report: Callable[[str], object],
    on_progress: Callable[[int, int], object] = lambda done, size: None,
) -> Iterator[Mirror]:
    """Copy a run of another machine and keep the copy up to date inside the block; then remove the copy.

    Args:
        address: the run.
        may_prompt: whether ssh may ask on the terminal, for the first connection only.
        report: receives lines about the connection, on another thread.
        on_progress: called with the bytes that are copied, and the size of the event log.

    Raises:
        IdaError: the connection could not be made, or the run cannot be copied.
    """
    connection = connect(address, may_prompt=may_prompt)
    try:
        path = _create_folder()
    except OSError as error:
        connection.close()
        raise IdaError(f"cannot create a copy of the run: {error.strerror or error}") from None
    mirror = Mirror(connection.address, RunDirectory(path), connection, report)
    try:
        try:
            mirror.copy_all(on_progress)
        except ConnectionLost as error:
            raise IdaError(f"the connection to {address.machine} is lost: {error}") from None
        except OSError as error:
            raise IdaError(f"cannot copy the run: {error.strerror or error}") from None
        mirror.start()
        yield mirror
    finally:
        mirror.close()
        remove_tree(path)


def _create_folder() -> Path:
    """A new private folder; those of processes that are gone are removed."""
    parent = cache_folder() / FOLDER
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in parent.iterdir():
        pid = entry.name.partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid[:9])):
            remove_tree(entry)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
