"""`ida-tui --run PROFILE --detach`: train in a process of its own that outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from ida_tui.config import Config
from ida_tui.errors import ExitCode
from ida_tui.paths import expanded, shown_path
from ida_tui.printable import printable, printable_text
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory

PATIENCE_S = 600.0
"""How long the run may take to begin: a model may have to be downloaded first."""


def detach(config: Config, arguments: Sequence[str]) -> ExitCode:
    """Start a run that goes on without us, and say where it is.

    Args:
        config: the resolved profile.
        arguments: of `ida-tui` for the run, without ``--detach``.

    Returns:
        Done once it has begun; its own exit code where it could not begin.
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
        directory = _begun(child, expanded(config.output_dir) / config.name)
        if directory is None:
            talk.seek(0)
            print(printable_text(talk.read().rstrip()), file=sys.stderr)
            return (
                ExitCode(child.returncode) if child.returncode in set(ExitCode) else ExitCode.FAILED
            )
    shown = printable(shown_path(directory.path))
    print(f"✓ It trains on its own, process {child.pid}: {shown}")
    print(f"  watch     ida-tui attach {shown}")
    print(f"  pause     ida-tui attach {shown} --pause   (--resume goes on)")
    print(f"  stop      ida-tui attach {shown} --stop")
    return ExitCode.DONE


def _begun(child: subprocess.Popen[bytes], runs: Path) -> RunDirectory | None:
    """The directory that the child owns; None where it ended before it had one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for path in runs.glob("*/owner.json"):
            directory = RunDirectory(path.parent)
            if owner.pid(directory) == child.pid:
                return directory
        if child.poll() is not None:
            return None
        time.sleep(0.1)
    psutil.Process(child.pid).terminate()
    child.wait()
    return None
