"""Subcommands such as `ida-tui cache show`, one module each; the flags are in `ida_tui.cli.main`.

Each module has `add(parser)`, which declares its arguments, and `run(options)`, which runs it. A module is
imported only when its command is used.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import Protocol, cast

from ida_tui.errors import ExitCode


class Command(Protocol):
    """Interface of a command module."""

    def add(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, options: Namespace) -> ExitCode:
        """Run the command."""


COMMANDS: dict[str, str] = {
    "doctor": "check this machine: device, memory, versions, API keys",
    "judge": "check a judge before you train with it: ida-tui judge check [JUDGE]",
    "reward": "check a reward before you train with it: ida-tui reward check PROFILE",
    "cache": "show, export or clear the judge cache: ida-tui cache [show|export|clear]",
    "bench": "time one GRPO step on this machine, with plain TRL and with ida-tui",
    "attach": "follow a run, live or finished; pause, resume or stop it",
    "runs": "list the runs, newest first",
    "sweep": "train one run per combination of values and tabulate the results",
    "compare": "compare runs side by side: config, curves, evaluation, cost",
    "rescore": "recompute rewards with another formula (no judge calls)",
    "replay-judge": "judge a run's completions again with another judge",
    "evaluate": "evaluate the model on held-out prompts, before and after training",
    "report": "write a report as HTML and Markdown: curves, completions, how to reproduce",
    "export": "export the trained model or adapter, verified, with a model card",
    "chat": "chat with the trained model and the base model side by side",
    "resume": "resume a run that was paused, stopped or interrupted",
    "completions": "print the shell completion script for bash, zsh or fish",
}
"""Each command and its one-line summary."""

WORKING_COMMANDS = ("bench", "evaluate", "export", "judge", "replay-judge", "reward")
"""Commands that work for minutes: they finish their work even if nobody reads their output."""
MODULES = {"replay-judge": "rejudge"}
"""The module of a command, where the two names differ."""


def load_command(name: str) -> Command:
    """Import the module of a command."""
    module = MODULES.get(name, name)
    return cast(Command, import_module(f"ida_tui.cli.commands.{module}"))
