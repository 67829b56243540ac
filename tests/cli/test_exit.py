"""A process that used torch is left at once, and leaves nothing lying about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, tempfile
sys.modules["torch"] = None
held = tempfile.TemporaryDirectory(dir=".", prefix="held-")
from ida_tui.cli.exit import leave
print("said before", end="")
leave(3)
print("never said")
"""


def test_temporary_directories_are_gone_and_what_was_printed_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said before", "")
    assert list(Path().glob("held-*")) == []
