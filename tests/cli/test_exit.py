"""Exit of a process that imported torch: immediate, after flushing output and removing temporary files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, tempfile
sys.modules["torch"] = None
temporary = tempfile.TemporaryDirectory(dir=".", prefix="temporary-")
from ida_tui.cli.exit import fast_exit
print("before", end="")
fast_exit(3)
print("never printed")
"""


def test_exit_removes_temporary_directories_and_flushes_output() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "before", "")
    assert list(Path().glob("temporary-*")) == []


def test_an_exit_without_memory_keeps_the_exit_code() -> None:
    script = SCRIPT.replace('print("before"', 'import gc\ngc.get_objects = None\nprint("before"')
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (3, "before")
