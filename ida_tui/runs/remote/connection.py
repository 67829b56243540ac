"""Connection to a run on another machine: the user's `ssh`, and a small script for the shell over there.

The script is sent to `sh` on its standard input and defines a function for each request, so that the other
machine needs no ida-tui. It reads files of the run directory and writes at most `control.json`. It ends when
the connection does. What it sends is data of a stranger: numbers are checked, and sizes are bounded.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Self

from ida_tui.errors import IdaError, UsageError
from ida_tui.runs.control import ControlRequest
from ida_tui.runs.remote.address import MAX_PATH, RemoteAddress
from ida_tui.util.text import one_line

CONNECT_TIMEOUT_S = 15
"""Longest time for the network connection, in seconds."""
REPLY_TIMEOUT_S = 30.0
"""Longest silence within a reply, in seconds."""
MAX_GREETING_BYTES = 256_000
"""Most bytes that a login script may print before the first reply."""
_MAX_LINE_BYTES = 200
_MAX_ERROR_BYTES = 2_000

_SSH_OPTIONS = (
    "-T", "-x", "-a", "-C",
    "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3",
    "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no",
    "-o", "RemoteCommand=none",
)  # fmt: skip

_SCRIPT = r"""
LC_ALL=C; export LC_ALL; umask 077
say() { printf 'MARK %s %s\n' "$1" "$2"; }
is_file() { [ -f "$1" ] && [ ! -L "$1" ]; }
size() { if is_file "$1"; then wc -c <"$1" | tr -dc 0-9; else printf 0; fi; }
part() {
  n=$(($(size "$1") - $2))
  if [ "$n" -lt 0 ]; then n=0; fi
  if [ "$n" -gt "$3" ]; then n=$3; fi
  printf 'part %d\n' "$n"
  if [ "$n" -gt 0 ]; then tail -c "+$(($2 + 1))" "$1" | head -c "$n"; fi
}
alive() {
  if ! is_file owner.json; then printf 0; return; fi
  o=$(head -c 1000 owner.json)
  p=$(printf '%s' "$o" | sed -n 's/.*"pid": *\([0-9][0-9]*\).*/\1/p' | head -c 9)
  h=$(printf '%s' "$o" | sed -n 's/.*"host": *"\([^"]*\)".*/\1/p')
  if [ -z "$p" ]; then printf 0
  elif [ "$h" != "$(uname -n)" ]; then
    if [ -n "$(find events.jsonl -mmin -1 2>/dev/null)" ]; then printf 1; else printf 0; fi
  elif kill -0 "$p" 2>/dev/null || [ -d "/proc/$p" ] || ps -p "$p" >/dev/null 2>&1; then printf 1
  else printf 0; fi
}
poll() {
  printf 'state %d %d\n' "$(alive)" "$(size events.jsonl)"
  part events.jsonl "$1" "$2"
  part completions.jsonl "$3" "$4"
}
ask() {
  t=.control.json-$$
  rm -f "$t"
  if (set -C; printf '{"ask": "%s", "pid": 0}' "$1" >"$t") 2>/dev/null && mv -f "$t" control.json 2>/dev/null
  then printf 'done 1\n'; else rm -f "$t" 2>/dev/null; printf 'done 0\n'; fi
}
if ! cd FOLDER 2>/dev/null; then say folder ''; exit 0; fi
if ! is_file events.jsonl && ! cd latest 2>/dev/null; then say run ''; exit 0; fi
if ! is_file events.jsonl; then say run ''; exit 0; fi
say ready "$(pwd -P)"
"""


class ConnectionLost(Exception):
    """The connection could not be made, or has ended.

    Args:
        reason: why, as one line without control characters.
    """


@dataclass(frozen=True, slots=True)
class Reply:
    """What was new in a run directory."""

    is_alive: bool
    """Whether a process trains the run; checked before the files were read."""
    events_size: int
    """Size of the event log, in bytes."""
    events: bytes
    completions: bytes


class Connection:
    """An open connection to one run directory.

    Args:
        address: the run.
        may_prompt: whether ssh may ask for a password or a passphrase on the terminal.

    Raises:
        UsageError: there is no program `ssh`, or the folder over there is not a run.
        ConnectionLost: the connection could not be made.
    """

    def __init__(self, address: RemoteAddress, *, may_prompt: bool = False) -> None:
        self.address = address
        """The run; after the connection, without links in its path."""
        self._buffer = bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        try:
            self._process = subprocess.Popen(
                _ssh_command(address, may_prompt=may_prompt),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=not may_prompt,  # a new session has no terminal to ask on
            )
        except OSError as error:
            self._errors.close()
            raise ConnectionLost(f"ssh could not be started: {error.strerror or error}") from None
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        try:
            self._greet(None if may_prompt else CONNECT_TIMEOUT_S + REPLY_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def poll(
        self, events: int, events_limit: int, completions: int, completions_limit: int
    ) -> Reply:
        """Ask whether the run is alive, and for what follows these offsets in its files.

        Args:
            events: offset in the event log, in bytes.
            events_limit: most bytes to send of it.
            completions: offset in the completions.
            completions_limit: most bytes to send of them.

        Raises:
            ConnectionLost: the connection has ended, or the reply is not one.
        """
        self._send(f"poll {events} {events_limit} {completions} {completions_limit}")
        alive, size = self._numbers(rb"state ([01]) (\d{1,15})\n")
        return Reply(bool(alive), size, self._part(events_limit), self._part(completions_limit))

    def read_file(self, name: str, limit: int) -> bytes:
        """The start of a file of the run directory; empty if it is missing.

        Args:
            name: one of this program's names, such as `manifest.json`.
            limit: most bytes to read.

        Raises:
            ConnectionLost: the connection has ended, or the reply is not one.
        """
        self._send(f"part {name} 0 {limit}")
        return self._part(limit)

    def ask(self, request: ControlRequest) -> bool:
        """Ask the run to pause, resume or stop; returns whether the request could be written.

        Raises:
            ConnectionLost: the connection has ended, or the reply is not one.
        """
        self._send(f"ask {request}")
        (done,) = self._numbers(rb"done ([01])\n")
        return bool(done)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the protocol -------------------------------------------------------------------------

    def _greet(self, limit_s: float | None) -> None:
        """Send the script and wait for its first line, after what login scripts print."""
        mark = f"ida-tui-{secrets.token_hex(8)}"
        script = _SCRIPT.replace("MARK", mark).replace("FOLDER", self.address.shell_path)
        self._send(script)
        deadline = None if limit_s is None else time.monotonic() + limit_s
        pattern = re.compile(rf"{mark} (\w+) ([^\n]*)\n".encode())
        while (match := pattern.search(bytes(self._buffer))) is None:
            if len(self._buffer) > MAX_GREETING_BYTES:
                raise ConnectionLost("the other machine does not run the commands of sh")
            self._fill(deadline)
        del self._buffer[: match.end()]
        if match[1] == b"folder":
            raise UsageError(
                f"there is no folder {one_line(self.address.path)} on {self.address.machine},"
                " or you may not enter it",
                f"list it with: ssh {self.address.machine} ls",
            )
        if match[1] == b"run":
            raise UsageError(
                f"{one_line(self.address.path)} on {self.address.machine} is not a run:"
                " it has no events.jsonl",
                "name the run directory itself, such as /path/to/outputs/quickstart/latest",
            )
        path = match[2].decode("utf-8", "replace")
        if path.startswith("/") and path.isprintable() and len(path) <= MAX_PATH:
            self.address = replace(self.address, path=path)

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{text}\n".encode())
        except OSError:
            raise ConnectionLost(self._reason()) from None

    def _part(self, limit: int) -> bytes:
        (size,) = self._numbers(rb"part (\d{1,15})\n")
        if size > limit:
            raise ConnectionLost("the other machine sent more than was asked for")
        while len(self._buffer) < size:
            self._fill(time.monotonic() + REPLY_TIMEOUT_S)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _numbers(self, pattern: bytes) -> tuple[int, ...]:
        """The numbers in the next line, which must have this form."""
        while (end := self._buffer.find(b"\n", 0, _MAX_LINE_BYTES)) < 0:
            if len(self._buffer) >= _MAX_LINE_BYTES:
                break
            self._fill(time.monotonic() + REPLY_TIMEOUT_S)
        match = re.fullmatch(pattern, bytes(self._buffer[: end + 1]))
        if match is None:
            raise ConnectionLost("the other machine sent something else than a reply")
        del self._buffer[: end + 1]
        return tuple(map(int, match.groups()))

    def _fill(self, deadline: float | None) -> None:
        """Read what has arrived, and wait for it until the deadline.

        Raises:
            ConnectionLost: the connection has ended, or nothing arrived.
        """
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._selector.select(left):
            raise ConnectionLost(f"no reply within {REPLY_TIMEOUT_S:.0f} s")
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 1 << 20)
        if not data:
            raise ConnectionLost(self._reason())
        self._buffer += data

    def _reason(self) -> str:
        """What ssh said last, or how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        size = os.fstat(self._errors.fileno()).st_size
        said = os.pread(self._errors.fileno(), _MAX_ERROR_BYTES, max(0, size - _MAX_ERROR_BYTES))
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line]
        return one_line(lines[-1])[:300] if lines else "the connection was closed"


def connect(address: RemoteAddress, *, may_prompt: bool) -> Connection:
    """The first connection to a run.

    Raises:
        IdaError: it could not be made, with what ssh said.
    """
    try:
        return Connection(address, may_prompt=may_prompt)
    except ConnectionLost as error:
        raise IdaError(
            f"could not connect to {address.machine}: {error}",
            f"check that this works, and that it asks nothing: ssh {_as_typed(address)} true",
        ) from None


def _as_typed(address: RemoteAddress) -> str:
    """The machine as arguments of ssh."""
    port = f"-p {address.port} " if address.port is not None else ""
    return f"{port}{address.user + '@' if address.user else ''}{address.host}"


def _ssh_command(address: RemoteAddress, *, may_prompt: bool) -> list[str]:
    """The command line of ssh; the address has no part that could be an option.

    Raises:
        UsageError: there is no program `ssh`.
    """
    program = shutil.which("ssh")
    if program is None:
        raise UsageError(
            "the program ssh is not installed", "install OpenSSH, or copy the run to this machine"
        )
    command = [program, *_SSH_OPTIONS]
    if not may_prompt:
        command += ["-o", "BatchMode=yes"]
    if address.user:
        command += ["-l", address.user]
    if address.port is not None:
        command += ["-p", str(address.port)]
    return [*command, "--", address.host, "exec sh"]
