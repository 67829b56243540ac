"""The command `ida-tui doctor`: check whether this machine is ready to train."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.cli.output.doctor import finding_lines, findings_as_json
from ida_tui.cli.output.lines import print_lines
from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json

EPILOG = """\
examples:
  ida-tui doctor                       check memory, versions, network and API keys; self-test the device
  ida-tui doctor --judge gpt-4o-mini   also check the endpoint of this judge
  ida-tui doctor --json                print the findings as JSON
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--judge", metavar="JUDGE", help="also check the endpoint of this judge")


def run(options: Namespace) -> ExitCode:
    """Run all checks and print the findings; exit code 5 if one of them is an error.

    Raises:
        UsageError: there is no such judge.
    """
    from ida_tui.engine.diagnostics import doctor

    findings = doctor.run_doctor(folder=Path.cwd(), judge=options.judge)
    failed = any(finding.severity == "error" for finding in findings)
    if options.json:
        print(as_json(findings_as_json(findings), indent=2))
    else:
        print_lines(finding_lines(findings))
    return ExitCode.DEVICE_UNUSABLE if failed else ExitCode.DONE
