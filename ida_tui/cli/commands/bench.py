"""`ida-tui bench`: one GRPO step on this machine, by plain TRL and by ours."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.errors import ExitCode

CELLS = "S-G8-T64,S-G8-T256-b0.04,S152k-G4-T64"

EPILOG = """\
examples:
  ida-tui bench                              the usual cells, a few minutes
  ida-tui bench --cells S-G4-T64             a short one
  ida-tui bench --device mps --json mac.json
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "mps", "cuda"],
        default="auto",
        help="where it is measured",
    )
    parser.add_argument(
        "--cells", metavar="NAMES", default=CELLS, help=f"what is measured ({CELLS})"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")


def run(options: Namespace) -> ExitCode:
    """Measure and print.

    Raises:
        IdaError: there is no such cell, or no such device.
    """
    from ida_tui.engine.bench import cases as cells
    from ida_tui.engine.bench import compare as table
    from ida_tui.engine.device import device

    chosen, wanted = device.choose(options.device), cells.named(options.cells)
    print(
        "one GRPO step by TRL as it comes, TRL tuned by hand and ours: random weights, LoRA r 16,\n"
        f"a judge of 0.5 to 1.5 s a call, on {chosen}; memory is the rise over the loaded model",
        flush=True,
    )
    rows = table.compare(wanted, repeats=1, device=chosen)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE
