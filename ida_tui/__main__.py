"""Entry point of `python -m ida_tui`, which is the same as the `ida-tui` command."""

from ida_tui.cli.main import entry

entry()
