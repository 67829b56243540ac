"""Command-line arguments that several commands share: the run and the overrides."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection, Sequence

from ida_tui.errors import UsageError


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
        key = override.partition("=")[0]
        if key not in keys:
            raise UsageError(
                f"{key} cannot change here",
                f"keys that can be given: {', '.join(keys)}",
                where=f"command line: {key}",
            )
