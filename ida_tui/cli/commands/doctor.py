"""`ida-tui doctor`: can this machine be trusted with a run?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json, printable

MARKS = {"good": "✓", "note": "!", "bad": "✗"}

EPILOG = """\
examples:
  ida-tui doctor                       chip, memory, versions, network, keys, and a self-test of the device
  ida-tui doctor --judge gpt-4o-mini   also whether that judge's endpoint answers
  ida-tui doctor --json                the findings as JSON
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument(
        "--judge", metavar="JUDGE", help="also ask whether this judge's endpoint answers"
    )


def run(options: Namespace) -> ExitCode:
    """Look at everything and print it; exit code 5 where a run could not be trusted.

    Raises:
        UsageError: there is no such judge.
    """
    from ida_tui.engine.diagnostics import doctor

    findings = doctor.examine(folder=Path.cwd(), judge=options.judge)
    bad = any(finding.verdict == "bad" for finding in findings)
    if options.json:
        print(as_json([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(printable(f"{MARKS[finding.verdict]} {finding.about:<12} {finding.text}"))
            if finding.fix:
                print(printable(f"{'':<14} fix: {finding.fix}"))
    return ExitCode.DEVICE_UNUSABLE if bad else ExitCode.DONE
