"""Command-line arguments: the flags without a command, and what commands share, the run and the overrides."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Collection, Sequence

from ida_tui import __version__
from ida_tui.errors import UsageError
from ida_tui.util.text import quoted


def add_flags(parser: ArgumentParser) -> None:
    """Declare the flags of `ida-tui` without a command."""
    parser.add_argument("--run", metavar="PROFILE", help="train without opening the app")
    parser.add_argument(
        "--check", metavar="PROFILE", help="resolve and plan a run without starting it"
    )
    parser.add_argument(
        "--show", metavar="PROFILE", help="print every value and where it comes from"
    )
    parser.add_argument(
        "--list",
        nargs="?",
        const="all",
        metavar="KIND",
        help="list the profiles (models, experiments, judges, rubrics, prompts)",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --run: print events as JSON lines"
    )
    parser.add_argument("--detach", action="store_true", help="with --run: train in the background")
    parser.add_argument("--version", action="version", version=f"ida-tui {__version__}")


def add_run_argument(parser: ArgumentParser) -> None:
    """Declare RUN, which `ida_tui.runs.catalog.lookup.find_run` understands."""
    parser.add_argument(
        "name", metavar="RUN", help="run directory, run id, or experiment (its newest run)"
    )


def add_override_arguments(parser: ArgumentParser) -> None:
    """Declare any number of ``key=value`` arguments."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a config value")


def add_consent_arguments(parser: ArgumentParser) -> None:
    """Declare `key=value` arguments for a command that accepts only those that agree to something."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="agree to what the run's config.yaml asks for, such as model.trust_remote_code=true",
    )


def check_override_keys(overrides: Sequence[str], keys: Collection[str]) -> None:
    """Refuse `key=value` arguments with other keys.

    Raises:
        UsageError: a key is none of these.
    """
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator:
            raise UsageError(
                f"unknown argument {quoted(override)}",
                "give one run; a file with messages for a chat is read from standard input: --lines < FILE",
            )
        if key not in keys:
            # The members of a panel have the same keys.
            shown = dict.fromkeys(re.sub(r"\.\d+\.", ".N.", known) for known in keys)
            raise UsageError(
                f"{key} cannot change here",
                f"keys that can be given: {', '.join(shown)}",
                where=f"command line: {key}",
            )
