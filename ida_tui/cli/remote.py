"""Runs on another machine for `ida-tui attach ssh://…`: follow one, or pause, resume or stop it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable

from ida_tui.cli.commands.attach import CONFIRMATIONS, asked_request, serve_run
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.runs.control import ControlRequest
from ida_tui.runs.remote.address import RemoteAddress, parse_address
from ida_tui.runs.remote.connection import ConnectionLost, connect
from ida_tui.runs.remote.mirror import open_mirror
from ida_tui.util.format import format_size

ANNOUNCED_BYTES = 8_000_000
"""Size of an event log above which its copying is announced."""


def attach_remote(options: Namespace) -> ExitCode:
    """Follow a run on another machine, or send it a request to pause, resume or stop.

    Raises:
        IdaError: the address is wrong, the connection could not be made, or there is no such run.
    """
    address = parse_address(options.name)
    # Before the screen starts, ssh may ask for a password on the terminal; later it never asks.
    may_prompt = sys.stdin.isatty() and sys.stderr.isatty()
    if request := asked_request(options):
        return _send_request(address, request, may_prompt=may_prompt)
    in_app = not (options.lines or options.json or options.serve) and sys.stdin.isatty()
    if in_app and sys.stdout.isatty():
        return _open_app(address)
    mirrored = open_mirror(
        address, may_prompt=may_prompt, report=print_status, on_progress=_announcer(address)
    )
    with mirrored as mirror:
        if options.serve:
            return serve_run(mirror.directory, options.port)
        from ida_tui.cli.output.follow import follow_run

        return follow_run(
            mirror.directory,
            as_json=options.json,
            resumed_with=f"ida-tui resume {mirror.address.shell_path}, on {mirror.address.machine}",
        )


def _open_app(address: RemoteAddress) -> ExitCode:
    from queue import SimpleQueue

    from ida_tui.tui.main import RemoteRun, run_app

    messages: SimpleQueue[str] = SimpleQueue()
    mirrored = open_mirror(
        address, may_prompt=True, report=messages.put, on_progress=_announcer(address)
    )
    with mirrored as mirror:
        remote = RemoteRun(mirror.directory.path, str(mirror.address), messages)
        return run_app(sys.argv, remote=remote)


def _announcer(address: RemoteAddress) -> Callable[[int, int], None]:
    """Prints once that a large run is being copied."""
    announced = False

    def announce(done: int, size: int) -> None:
        nonlocal announced
        if size > ANNOUNCED_BYTES and not announced:
            announced = True
            print_status(
                f"copying the events of the run ({format_size(size)}) from {address.machine}"
            )

    return announce


def _send_request(address: RemoteAddress, request: ControlRequest, *, may_prompt: bool) -> ExitCode:
    with connect(address, may_prompt=may_prompt) as connection:
        address = connection.address
        try:
            if not connection.poll(0, 0, 0, 0).is_alive:
                raise UsageError(
                    f"no process is training {address}",
                    f"resume it on {address.machine}: ida-tui resume {address.shell_path}",
                )
            if not connection.ask(request):
                raise UsageError(
                    f"could not write to {address.path} on {address.machine}",
                    "connect as the user who started the run",
                )
        except ConnectionLost as error:
            raise IdaError(f"the connection to {address.machine} is lost: {error}") from None
    print_lines([f"✓ {CONFIRMATIONS[request]} ({address})"])
    return ExitCode.DONE
