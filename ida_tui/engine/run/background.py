"""Background process for a run, which keeps training after its terminal is closed.

The process gets the judge's API key from its environment, or from `.env` in the working directory, never from
its command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import display_path, expand_home

START_TIMEOUT_S = 600.0
"""How long a run may take to start. A model may have to be downloaded first."""


@dataclass(frozen=True, slots=True)
class BackgroundRun:
    """A run that trains in a background process."""

    pid: int
    directory: RunDirectory

    def status_lines(self) -> list[str]:
        """Process and run directory, and the commands to watch, pause and stop the run."""
        path = display_path(self.directory.path)
        return [
            f"✓ Training in the background (pid {self.pid}): {path}",
            f"  watch     ida-tui attach {path}",
            f"  pause     ida-tui attach {path} --pause   (--resume resumes)",
            f"  stop      ida-tui attach {path} --stop",
        ]


class LaunchFailed(Exception):
    """The background process exited, or timed out, before its run started.

    Args:
        output: the output of the process.
        code: its exit code.
    """

    def __init__(self, output: str, code: ExitCode) -> None:
        super().__init__(output)
        self.output = output
        self.code = code


def launch(
    arguments: Sequence[str], find_directory: Callable[[int], RunDirectory | None]
) -> BackgroundRun:
    """Start `ida-tui` in a new session and wait until its run has started.

    Args:
        arguments: command-line arguments of `ida-tui`.
        find_directory: returns the run directory that this pid owns; None while it owns none.

    Raises:
        LaunchFailed: the process exited before it owned a run directory, or took too long.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ida_tui", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,  # detach from the terminal
            env=os.environ,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and child.poll() is None:
            directory = find_directory(child.pid)
            if directory is not None:
                return BackgroundRun(child.pid, directory)
            time.sleep(0.1)
        if child.poll() is None:
            child.terminate()
            child.wait()
        output.seek(0)
        is_known_failure = child.returncode in set(ExitCode) and child.returncode != ExitCode.DONE
        raise LaunchFailed(
            output.read().rstrip(),
            ExitCode(child.returncode) if is_known_failure else ExitCode.FAILED,
        )


def resume_in_background(directory: RunDirectory, arguments: Sequence[str] = ()) -> BackgroundRun:
    """Resume a run in a background process.

    Args:
        directory: the run directory.
        arguments: further command-line arguments of `ida-tui resume`.

    Raises:
        LaunchFailed: the run could not be resumed.
    """
    return launch(
        ["resume", str(directory.path), *arguments],
        lambda pid: directory if owner.owner_pid(directory) == pid else None,
    )


def find_new_run(config: Config, pid: int) -> RunDirectory | None:
    """The run directory of this profile that a process has created and owns; None before it has."""
    runs = expand_home(config.output_dir) / config.name
    # `latest` is a link that moves when another run starts.
    folders = (p.parent for p in runs.glob("*/owner.json") if not p.parent.is_symlink())
    candidates = map(RunDirectory, folders)
    return next((d for d in candidates if owner.owner_pid(d) == pid and owner.is_alive(d)), None)
