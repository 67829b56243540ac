"""Entry point of `python -m ida_tui`, which is the same as the `ida-tui` command."""

import os
import sys

# `python -m` searches the working directory first: a file there, such as ./yaml.py, would be executed.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109
    del sys.path[0]

from ida_tui.cli.main import entry

entry()
