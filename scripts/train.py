"""Shortcut for `ida-tui --run`, used by the original quick-start command.

uv run python scripts/train.py model=qwen3-4b-mps-fp16 experiment=dev-mps
"""

import sys

from ida_tui.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["--run", *sys.argv[1:]]))
