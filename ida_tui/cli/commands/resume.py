"""`ida-tui resume RUN [key=value ...]`: go on with a run that stopped early."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode
from ida_tui.events.types import EventError
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.runs.directory import RunDirectory

EPILOG = """\
examples:
  ida-tui resume quickstart                      its newest run, from its newest whole checkpoint
  ida-tui resume quickstart judge=offline        with another judge
  ida-tui resume oblit-1-mps budget=2 --detach
  ida-tui resume oblit-1-mps --with oblit-1-mps-lowmem
"""

SPLIT = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "token_budget",
    "rollout_rows",
)
"""How much of a step is held at once."""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value")
    parser.add_argument(
        "--with",
        dest="variant",
        metavar="PROFILE",
        help="take over what this experiment changes in the run's own, such as oblit-1-mps-lowmem",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="events as JSON lines")
    how.add_argument("--detach", action="store_true", help="train on without this terminal")


def run(options: Namespace) -> ExitCode:
    """Resume the run and follow it to its end, or leave it to a process of its own.

    Raises:
        IdaError: there is no such run, it is complete or alive, or it cannot start.
    """
    from ida_tui.api import config_to_go_on
    from ida_tui.cli import train as headless
    from ida_tui.config.resolve import resolve
    from ida_tui.judge.api_key import load_key
    from ida_tui.runs import postmortem
    from ida_tui.runs import resume as resumption

    directory = resumption.find(options.name, Path("outputs"))
    if _goes_on_elsewhere(directory):
        return ExitCode.DONE
    found = resumption.resumption(directory)
    if found.state.ended is None:
        print(printable(f"! it died: {postmortem.likely_cause(found.state)}"), file=sys.stderr)
        kept = f"step {found.step} is safe on disk" if found.step else "no step was saved"
        print(printable(f"  {kept}; going on from there"), file=sys.stderr)
    used = found.checkpoint.name if found.checkpoint else "the beginning"
    for bad in found.rejected:
        print(printable(f"! {bad.path.name} is not used: {bad.why}"), file=sys.stderr)
    if found.rejected:
        print(f"  going on from {used} instead", file=sys.stderr)
    taken: list[str] = []
    if options.variant:
        before = resolve(str(directory.config), [], verify=False).config
        taken = changes(before.name, options.variant)
    config = config_to_go_on(directory, [*taken, *options.overrides])
    key = load_key(config.judge, dotenv_dir=Path.cwd())
    if options.detach:
        from ida_tui.cli.background import resume_detached

        variant = ["--with", options.variant] if options.variant else []
        return resume_detached(directory, [*variant, *options.overrides])
    return headless.run(config, key=key, argv=sys.argv, as_json=options.json, resume=found)


def _goes_on_elsewhere(directory: RunDirectory) -> bool:
    """A run that another process has paused only has to be asked."""
    from ida_tui.runs import control, owner
    from ida_tui.runs.log.replay import Replay

    if not owner.alive(directory):
        return False
    try:
        pause = Replay.open(directory.events).end.pause
    except (OSError, EventError):
        return False
    if pause is None or pause.by not in ("person", "alert"):
        return False
    control.ask(directory, "go_on")
    print("✓ asked: the process that holds it goes on")
    return True


def changes(name: str, variant: str) -> list[str]:
    """What an experiment changes in the training and limit of another one, as ``key=value``.

    Args:
        name: the run's own experiment.
        variant: the one that is taken over.

    Raises:
        UsageError: one of the two is not known here.
    """
    from ida_tui.config.resolve import resolve

    own, other = (resolve(n, [], verify=False).config for n in (name, variant))
    ours, theirs = own.training.model_dump(), other.training.model_dump()
    # How a step is split was chosen when the run began; the variant's own way is what saves memory.
    taken = [key for key in ours if key in SPLIT or ours[key] != theirs[key]]
    found = [f"training.{key}={json.dumps(theirs[key])}" for key in taken]
    if own.limit_gb != other.limit_gb:
        found.append(f"limit_gb={json.dumps(other.limit_gb)}")
    return found
