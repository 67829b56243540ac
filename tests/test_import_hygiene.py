"""What must be quick stays quick: no command that trains nothing imports a machine-learning library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "openai",
    "textual",
    "optuna",
)

PROBE = """
import sys
from ida_tui.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code
heavy = sorted(set({heavy!r}) & set(sys.modules))
print(heavy, file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("--list",),
        ("--show", "dev-mps"),
        ("--check", "dev-mps", "model=qwen3-4b-mps-fp16"),
        ("--check", "quickstart"),
        ("sweep", "quickstart", "seed=0,1", "--check"),
    ],
    ids=" ".join,
)
def test_a_command_that_trains_nothing_imports_no_heavy_library(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout.strip()
