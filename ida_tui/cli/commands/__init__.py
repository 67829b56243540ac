"""The commands that are words (`ida-tui cache show`), one module each; the flags are in `ida_tui.cli.main`.

A module has `add(parser)`, which declares its arguments, and `run(options)`, which carries it out. It
is imported when its word is typed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import Protocol, cast

from ida_tui.errors import ExitCode


class Command(Protocol):
    """What a module of this package offers."""

    def add(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, options: Namespace) -> ExitCode:
        """Carry the command out."""


WORDS: dict[str, str] = {
    "doctor": "look at this machine: device, memory, versions, keys",
    "judge": "check a judge before a run is spent on it: ida-tui judge check [JUDGE]",
    "cache": "see, export or clear the kept verdicts: ida-tui cache [show|export|clear]",
    "bench": "time a step on this machine, plain TRL beside ours",
    "attach": "follow a run, live or finished; pause, resume or stop it",
    "runs": "list the runs, newest first",
    "sweep": "a run for each combination of values, and one table of them all",
    "compare": "put runs side by side: profiles, curves, evaluation, cost",
    "rescore": "what another formula would have paid in a run; asks nobody",
    "replay-judge": "have a run's completions judged again, by another judge",
    "evaluate": "the model before and after, on prompts that it was not trained on",
    "report": "a run as one page, HTML and Markdown: curves, completions, how to reproduce",
    "export": "the trained model as a folder for others: adapter or whole, checked, with a card",
    "chat": "talk to the model and to what it was before, side by side",
    "resume": "go on with a run that was paused, stopped or cut off",
    "completions": "print the script that completes commands in bash, zsh or fish",
}
"""Each word, and what it does in a line."""

MODULES = {"replay-judge": "rejudge"}
"""The module of a word, where it is not the word itself."""


def command(word: str) -> Command:
    """The module behind a word."""
    module = MODULES.get(word, word)
    return cast(Command, import_module(f"ida_tui.cli.commands.{module}"))
