"""`--detach`, of `ida-tui --run` and of `ida-tui resume`: train in a process that outlives the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ida_tui.config.schema import Config
from ida_tui.engine.run.background import Detached, NotBegun, launch, resumed
from ida_tui.errors import ExitCode
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import expanded
from ida_tui.util.text import printable, printable_text


def detach(config: Config, arguments: Sequence[str]) -> ExitCode:
    """Start a run that goes on without us, and say where it is.

    Args:
        config: the resolved profile.
        arguments: of `ida-tui` for the run, without ``--detach``.

    Returns:
        Done once it has begun; its own exit code where it could not begin.
    """
    runs = expanded(config.output_dir) / config.name

    def find(pid: int) -> RunDirectory | None:
        found = (RunDirectory(path.parent) for path in runs.glob("*/owner.json"))
        return next((directory for directory in found if owner.pid(directory) == pid), None)

    return _told(lambda: launch(arguments, find))


def resume_detached(directory: RunDirectory, arguments: Sequence[str]) -> ExitCode:
    """Go on with a run without us, and say where it is.

    Args:
        directory: the run.
        arguments: of `ida-tui resume`, after the run, without ``--detach``.

    Returns:
        Done once it goes on; its own exit code where it could not.
    """
    return _told(lambda: resumed(directory, arguments))


def _told(begin: Callable[[], Detached]) -> ExitCode:
    try:
        detached = begin()
    except NotBegun as error:
        print(printable_text(error.talk), file=sys.stderr)
        return error.code
    print(*map(printable, detached.lines()), sep="\n")
    return ExitCode.DONE
