"""Answer to a shell that asks for completions: a parser for completion only, and argcomplete's call."""

from __future__ import annotations

import os
import re
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from argcomplete.completers import SuppressCompleter
from argcomplete.finders import ExclusiveCompletionFinder
from argcomplete.io import debug
from argcomplete.lexers import split_line

from ida_tui.cli import commands
from ida_tui.cli.arguments import add_flags, add_override_arguments
from ida_tui.cli.completion.candidates import attach_completers

_OWN_NAME = re.compile(r"(?:^|[/;&|(])ida-tui$")


def answer_shell() -> NoReturn:
    """Write the completions at the cursor to the file that the shell code reads, and exit.

    A failure is an exit with status 1, without a message in the user's command line; with the environment
    variable `_ARC_DEBUG` it is printed.
    """
    try:
        words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
        # zsh sends the whole line, such as `cd folder && ida-tui …`; argcomplete skips the words before.
        start = max((i for i, word in enumerate(words) if _OWN_NAME.search(word)), default=0)
        os.environ["_ARGCOMPLETE"] = str(start + 1)
        first_word = next(iter(words[start + 1 :]), "")
        ExclusiveCompletionFinder()(
            completion_parser(first_word),
            always_complete_options=False if first_word else "long",
            exit_method=sys.exit,
            default_completer=SuppressCompleter(),
        )
    except Exception:
        debug(traceback.format_exc())
    sys.exit(1)


def completion_parser(first_word: str) -> ArgumentParser:
    """The arguments that a command line can have, given its first word.

    Args:
        first_word: the first word after `ida-tui`; empty if it is being typed. The arguments of a command are
            declared only if it is this word, so that no other command is imported.
    """
    is_flag = first_word.startswith("-")
    parser = _CompletionParser(add_help=is_flag or not first_word, allow_abbrev=False)
    if is_flag or not first_word:
        add_flags(parser)
    if is_flag:
        add_override_arguments(parser)
    _prepare(parser)
    if not first_word or first_word in commands.COMMANDS:
        subparsers = parser.add_subparsers()
        for name, summary in commands.COMMANDS.items():
            command = subparsers.add_parser(name, help=summary, allow_abbrev=False)
            if name == first_word:
                commands.load_command(name).add(command)
                _prepare(command)
    return parser


def _prepare(parser: ArgumentParser) -> None:
    """Attach the completers; every argument takes exactly its own words, and any value."""
    attach_completers(parser)
    for action in parser._actions:
        action.type = None
        if action.nargs == "?":
            action.nargs = None


class _CompletionParser(ArgumentParser):
    """A parser that takes flags and values in any order, as `parse_intermixed_args` does."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parse the flags first; argparse would give `key=value …` only the words before the next flag."""
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        flags: list[str] = []
        values: list[str] = []
        words = list(args)
        while words:
            word = words.pop(0)
            action = self._option_string_actions.get(word)
            if action is None:
                (flags if word.startswith("-") else values).append(word)
            elif action.nargs == 0:
                flags.append(word)
            elif words:
                flags += [word, words.pop(0)]
            else:  # its value is being typed
                values.append(word)
        return super().parse_known_args([*flags, *values], namespace)
