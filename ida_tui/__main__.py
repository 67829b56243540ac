"""`python -m ida_tui`: the same as the `ida-tui` command."""

from ida_tui.cli.main import entry

entry()
