"""A process of its own for a run, which outlives the terminal that it was started from.

The judge's key is in the environment that the process inherits, or in the `.env` of the working directory;
never on its command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ida_tui.errors import ExitCode, IdaError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import shown_path

PATIENCE_S = 600.0
"""How long the run may take to begin: a model may have to be downloaded first."""
FEW_LINES = 6


@dataclass(frozen=True, slots=True)
class Detached:
    """A run that goes on without us."""

    pid: int
    directory: RunDirectory

    def lines(self) -> list[str]:
        """What it is, and how to reach it."""
        shown = shown_path(self.directory.path)
        return [
            f"✓ It trains on its own, process {self.pid}: {shown}",
            f"  watch     ida-tui attach {shown}",
            f"  pause     ida-tui attach {shown} --pause   (--resume goes on)",
            f"  stop      ida-tui attach {shown} --stop",
        ]


class NotBegun(Exception):
    """The process ended before it owned a run.

    Args:
        talk: what it said.
        code: its exit code.
    """

    def __init__(self, talk: str, code: ExitCode) -> None:
        super().__init__(talk)
        self.talk = talk
        self.code = code


def launch(arguments: Sequence[str], find: Callable[[int], RunDirectory | None]) -> Detached:
    """Start `ida-tui` in a session of its own, and wait until it trains.

    Args:
        arguments: of `ida-tui`.
        find: the directory that the process of this number owns; None while there is none.

    Raises:
        NotBegun: it ended before it had one, or took too long.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as talk:
        child = subprocess.Popen(
            [sys.executable, "-m", "ida_tui", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=talk,
            start_new_session=True,  # no terminal, so none that closes
            env=os.environ,
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and child.poll() is None:
            directory = find(child.pid)
            if directory is not None:
                return Detached(child.pid, directory)
            time.sleep(0.1)
        if child.poll() is None:
            child.terminate()
            child.wait()
        talk.seek(0)
        known = child.returncode in set(ExitCode) and child.returncode != ExitCode.DONE
        raise NotBegun(
            talk.read().rstrip(), ExitCode(child.returncode) if known else ExitCode.FAILED
        )


def resumed(directory: RunDirectory, arguments: Sequence[str] = ()) -> Detached:
    """Go on with a run in a process of its own.

    Args:
        directory: the run.
        arguments: of `ida-tui resume`, after the run.

    Raises:
        NotBegun: it could not go on.
    """
    return launch(
        ["resume", str(directory.path), *arguments],
        lambda pid: directory if owner.pid(directory) == pid else None,
    )


def handed_over(directory: RunDirectory) -> Detached:
    """Go on with a run that this process has just let go of.

    Raises:
        IdaError: it could not go on; it is safe on disk.
    """
    try:
        return resumed(directory)
    except NotBegun as error:
        said = "\n".join(error.talk.splitlines()[-FEW_LINES:])
        raise IdaError(
            "the run could not go on in a process of its own",
            f"{said}\nit is safe; go on with: ida-tui resume {shown_path(directory.path)}".strip(),
            code=error.code,
        ) from None
