"""Command-line arguments that several commands share: the run and the overrides."""

from __future__ import annotations

from argparse import ArgumentParser


def add_run_argument(parser: ArgumentParser) -> None:
    """Declare RUN, which `ida_tui.runs.catalog.lookup.find_run` understands."""
    parser.add_argument(
        "name", metavar="RUN", help="run directory, run id, or experiment (its newest run)"
    )


def add_override_arguments(parser: ArgumentParser) -> None:
    """Declare any number of ``key=value`` arguments."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a config value")
