"""The command `ida-tui bench`: time one GRPO step with plain TRL and with ida-tui."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from ida_tui.errors import ExitCode
from ida_tui.util.paths import require_writable

DEFAULT_CASES = "SmolLM2-135M-G4-T24,S152k-G4-T64"

EPILOG = """\
examples:
  ida-tui bench                              run the default cases; takes a few minutes
  ida-tui bench --cells S-G4-T64             run one short case
  ida-tui bench --device mps --json mac.json
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "mps", "cuda"],
        default="auto",
        help="device to measure on",
    )
    parser.add_argument(
        "--cells",
        metavar="NAMES",
        default=DEFAULT_CASES,
        help=f"cases to measure ({DEFAULT_CASES})",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="also write the measurements to this file"
    )


def run(options: Namespace) -> ExitCode:
    """Measure the cases and print a table.

    Raises:
        IdaError: there is no such case or device, or the file cannot be written.
    """
    if options.json is not None:
        require_writable(options.json)
    from ida_tui.engine.bench.cases import STEADY_STEPS, cases_by_name
    from ida_tui.engine.bench.compare import compare_trainers
    from ida_tui.engine.device import device

    target, cases = device.choose_device(options.device), cases_by_name(options.cells)
    print(
        "One GRPO step with default TRL, hand-tuned TRL and ida-tui: LoRA r=16, a judge of 0.5 to 1.5 s\n"
        f"per call, on {target}. SmolLM2: real weights, each trainer as it comes. Others: random weights,\n"
        "one thread for each. Memory is the increase over the loaded model.",
        flush=True,
    )
    rows = compare_trainers(
        cases, repeats=1, device=target, steps=STEADY_STEPS[:1], show=partial(print, flush=True)
    )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE
