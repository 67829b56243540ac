"""Python processes that have imported torch and the other libraries of a run, which alone takes seconds.

`[*prepared_python(), "-m", "ida_tui", …]` takes the place of `[sys.executable, "-m", "ida_tui", …]`. A
server imports the libraries once and forks for each command. The command that a test starts is a small
client: it hands its files, directory and environment to the fork, passes signals on, and ends as the fork
ends. A test of what importing does, of a terminal, or of variables that libraries read when they are imported
needs a Python of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that a client passes on. One that kills the client kills the command."""


def prepared_python() -> list[str]:
    """The command of a prepared Python; the first call starts the server, which ends with this process."""
    if sys.platform != "linux":  # forking is unsafe with Metal
        return [sys.executable]
    return [sys.executable, "-I", "-S", __file__, _server()[1]]


@functools.cache
def _server() -> tuple[object, str]:
    """The server of this process, whose stdin is open as long as this process runs, and its address."""
    import subprocess
    from pathlib import Path

    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.prepared"],
        cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    return server, server.stdout.readline().rstrip("\n")


# --- the server ------------------------------------------------------------------------------


def serve() -> None:
    """Import the libraries, print an address, then fork for every client, until stdin is closed."""
    import shutil
    import tempfile

    from tests.faults.kill import prepare

    prepare()
    folder = tempfile.mkdtemp(prefix="ida-tui-prepared-")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the children
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen()
    print(f"{folder}/socket", flush=True)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run_for(client)
        client.close()
    shutil.rmtree(folder)


def run_for(client: socket.socket) -> None:
    """Fork again: the child runs the client's command, the parent reports how it ends, or ends it.

    Neither returns.
    """
    data, files, _, _ = socket.recv_fds(client, 65_536, 3)
    while not data.endswith(b"\n"):
        data += client.recv(65_536)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        client.close()
        become(files, **json.loads(data))
        sys.exit()
    for file in (0, 1, 2, *files):
        os.close(file)
    client.sendall(f"{child}\n".encode())
    if client in select.select([os.pidfd_open(child), client], [], [])[0]:
        os.kill(child, signal.SIGKILL)  # a client that was killed takes its command with it
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        client.sendall(f"{status}\n".encode())
    os._exit(0)


def become(files: list[int], argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Run the command in this process, and end it."""
    import runpy

    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    for number in FORWARDED:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    option, name, *arguments = argv
    assert option == "-m", "only modules are run"
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


# --- the client ------------------------------------------------------------------------------


def request(address: str, argv: list[str]) -> int:
    """Have the server run a command with the files of this process, and return its exit status.

    The server answers with the process id, and at the end with the wait status.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    command = {"argv": argv, "cwd": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    data = json.dumps(command).encode() + b"\n"
    sent = socket.send_fds(server, [data], [0, 1, 2])
    server.sendall(data[sent:])
    replies = server.makefile()
    child = int(replies.readline())
    for number in FORWARDED:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = os.waitstatus_to_exitcode(int(replies.readline()))
    if code < 0:
        if -code in FORWARDED:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        sys.exit(request(sys.argv[1], sys.argv[2:]))
