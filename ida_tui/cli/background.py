"""Start and resume of background runs, for `--detach` of `ida-tui --run` and `ida-tui resume`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from ida_tui.cli.output.lines import print_lines
from ida_tui.config.schema import Config
from ida_tui.engine.run import background
from ida_tui.engine.run.background import BackgroundRun, LaunchFailed
from ida_tui.errors import ExitCode
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.text import multiple_lines


def start_in_background(config: Config, arguments: Sequence[str]) -> ExitCode:
    """Start a run in a background process that outlives the terminal, and print its run directory.

    Args:
        config: the resolved profile.
        arguments: arguments of `ida-tui` for the run, without `--detach`.

    Returns:
        Done once the run has started; otherwise the exit code of the failed process.
    """
    find = partial(background.find_new_run, config)
    return _report_launch(lambda: background.launch(arguments, find))


def resume_in_background(directory: RunDirectory, arguments: Sequence[str]) -> ExitCode:
    """Resume a run in a background process that outlives the terminal, and print its run directory.

    Args:
        directory: the run.
        arguments: arguments of `ida-tui resume` after the run, without `--detach`.

    Returns:
        Done once the run has resumed; otherwise the exit code of the failed process.
    """
    return _report_launch(lambda: background.resume_in_background(directory, arguments))


def _report_launch(start: Callable[[], BackgroundRun]) -> ExitCode:
    try:
        detached = start()
    except LaunchFailed as error:
        print(multiple_lines(error.output), file=sys.stderr)
        return error.code
    print_lines(detached.status_lines())
    return ExitCode.DONE
