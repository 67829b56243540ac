"""The command `ida-tui resume RUN [key=value ...]`: resume a run that stopped early."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.arguments import add_override_arguments, add_run_argument
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from ida_tui.runs.directory import RunDirectory

EPILOG = """\
examples:
  ida-tui resume quickstart                      resume its newest run from its newest complete checkpoint
  ida-tui resume quickstart judge=offline        resume with another judge
  ida-tui resume oblit-1-mps budget=2 --detach
  ida-tui resume oblit-1-mps --with oblit-1-mps-lowmem
"""

STEP_SPLIT_KEYS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "gradient_checkpointing",
    "token_budget",
    "rollout_rows",
)
"""Keys that say how much of a step is in memory at a time."""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_run_argument(parser)
    add_override_arguments(parser)
    parser.add_argument(
        "--with",
        dest="variant",
        metavar="PROFILE",
        help="use the training settings and memory limit of another experiment, such as oblit-1-mps-lowmem",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print events as JSON lines")
    output.add_argument("--detach", action="store_true", help="train in the background")


def run(options: Namespace) -> ExitCode:
    """Resume the run and follow it to its end, or resume it in a background process.

    Raises:
        IdaError: there is no such run, it is complete or still running, or it cannot start.
    """
    from ida_tui.api import config_for_resume, data_has_changed, model_has_changed
    from ida_tui.cli import train
    from ida_tui.cli.restarted import code_of_ended_run
    from ida_tui.config.resolve import resolve
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.runs import postmortem
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.runs.resume import find_resume_point

    directory = find_run(options.name, Path("outputs"))
    if (code := code_of_ended_run(directory)) is not None:
        return code
    if _resume_paused_process(directory):
        return ExitCode.DONE
    resume_point = find_resume_point(directory)
    if resume_point.state.ended is None:
        print_status(f"! the run died: {postmortem.likely_cause(resume_point.state)}")
        saved = (
            f"step {resume_point.step} is saved on disk; resuming after it"
            if resume_point.step
            else "no step was saved; starting over"
        )
        print_status(f"  {saved}")
    start = resume_point.checkpoint.name if resume_point.checkpoint else "the beginning"
    for checkpoint in resume_point.rejected:
        print_status(f"! {checkpoint.path.name} cannot be used: {checkpoint.reason}")
    if resume_point.rejected:
        print_status(f"  resuming from {start} instead")
    variant_overrides: list[str] = []
    if options.variant:
        original = resolve(str(directory.config), [], verify=False).config
        variant_overrides = profile_differences(original.name, options.variant)
    config = config_for_resume(directory, [*variant_overrides, *options.overrides])
    if data_has_changed(directory, config):
        print_status("! The data of the run has changed: its digest is not the one it started with")
    if model_has_changed(directory, config):
        print_status("! The model's file has changed: it is not the one that the run started with")
    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    if options.detach:
        from ida_tui.cli.background import resume_in_background

        variant = ["--with", options.variant] if options.variant else []
        return resume_in_background(directory, [*variant, *options.overrides])
    return train.train(config, key=key, argv=sys.argv, as_json=options.json, resume=resume_point)


def _resume_paused_process(directory: RunDirectory) -> bool:
    """Whether another process has paused the run; if so, send it a resume request."""
    from ida_tui.runs import control, owner
    from ida_tui.runs.log.replay import read_final_state

    if not owner.is_alive(directory):
        return False
    try:
        pause = read_final_state(directory).pause
    except UsageError:
        return False
    if pause is None or pause.by not in ("person", "alert"):
        return False
    control.send_request(directory, "go_on")
    print_lines(["✓ Resume requested; the paused process continues"])
    return True


def profile_differences(name: str, variant: str) -> list[str]:
    """The differences of an experiment in training and memory limit, as `key=value` strings.

    Args:
        name: the run's own experiment.
        variant: the experiment whose values to use.

    Raises:
        UsageError: one of the two experiments is unknown.
    """
    from ida_tui.config.resolve import resolve

    current, target = (resolve(n, [], verify=False).config for n in (name, variant))
    current_values, target_values = current.training.model_dump(), target.training.model_dump()
    # How a step is split was fixed when the run started; always use the variant's split, which saves memory.
    keys = [
        key
        for key in current_values
        if key in STEP_SPLIT_KEYS or current_values[key] != target_values[key]
    ]
    overrides = [f"training.{key}={json.dumps(target_values[key])}" for key in keys]
    if current.limit_gb != target.limit_gb:
        overrides.append(f"limit_gb={json.dumps(target.limit_gb)}")
    return overrides
