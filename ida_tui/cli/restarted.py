"""Continuation of a run whose processes torchrun has started again (`--max_restarts`)."""

from __future__ import annotations

import time
from argparse import Namespace

from ida_tui.cli.commands import load_command
from ida_tui.cli.output.lines import print_status
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory, experiment_directory
from ida_tui.runs.log.replay import read_final_state
from ida_tui.runs.store import manifest
from ida_tui.system.launcher import elastic_job
from ida_tui.util.paths import display_path

FINAL = ("done", "interrupted", "stopped_by_alert")
"""Ends of a run that another start of its processes does not undo."""
OWNER_WAIT_S = owner.REMOTE_ALIVE_S + 30
"""How long to wait until a killed process on another host counts as dead."""


def restarted_run(config: Config) -> RunDirectory | None:
    """The run that earlier processes of this torchrun have started; None if this is the first start."""
    job = elastic_job()
    if job is None or not job.restarts:
        return None
    runs = experiment_directory(config.output_dir, config.name)
    for path in sorted(runs.glob("*/manifest.json"), reverse=True):
        if not path.parent.is_symlink() and any(
            map(job.has_started, manifest.recorded_launchers(path))
        ):
            return RunDirectory(path.parent.resolve())
    return None


def continue_run(directory: RunDirectory, *, as_json: bool) -> ExitCode:
    """Resume the run from its last complete checkpoint, unless it has ended for good.

    Raises:
        IdaError: the run cannot be resumed.
    """
    print_status(
        f"! torchrun has started its processes again: {display_path(directory.path)} continues"
    )
    options = Namespace(
        name=str(directory.path), overrides=[], variant=None, json=as_json, detach=False
    )
    return load_command("resume").run(options)


def code_of_ended_run(directory: RunDirectory) -> ExitCode | None:
    """The exit code of a run that a restart of its torchrun must not resume: somebody has stopped it.

    Waits for the process that has trained the run to end. None if this is not a restart, or the run goes on.
    """
    job = elastic_job()
    launchers = manifest.recorded_launchers(directory.manifest)
    if job is None or not any(map(job.has_started, launchers)):
        return None
    deadline = time.monotonic() + OWNER_WAIT_S
    while owner.is_alive(directory) and time.monotonic() < deadline:
        time.sleep(0.5)
    ended = read_final_state(directory).ended
    if ended is None or ended.status not in FINAL:
        return None
    print_status(
        f"! the run has ended ({ended.status}): a restart of torchrun does not continue it"
    )
    return ExitCode(ended.exit_code)
