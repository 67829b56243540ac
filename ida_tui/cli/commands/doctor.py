"""The command `ida-tui doctor`: check whether this machine is ready to train."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.errors import ExitCode
from ida_tui.util.finding import Finding, Severity
from ida_tui.util.text import as_json, one_line

MARKS: dict[Severity, str] = {"good": "✓", "note": "!", "error": "✗"}
JSON_VERDICTS: dict[Severity, str] = {"good": "good", "note": "note", "error": "bad"}

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
        print(as_json([_as_json(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(one_line(f"{MARKS[finding.severity]} {finding.about:<12} {finding.text}"))
            if finding.fix:
                print(one_line(f"{'':<14} fix: {finding.fix}"))
    return ExitCode.DEVICE_UNUSABLE if failed else ExitCode.DONE


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "about": finding.about,
        "verdict": JSON_VERDICTS[finding.severity],
        "text": finding.text,
        "fix": finding.fix,
    }
