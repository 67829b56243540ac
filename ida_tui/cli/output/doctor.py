"""Findings of `ida-tui doctor`, as printed lines and as JSON values. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ida_tui.util.finding import MARKS, Finding, Severity

JSON_VERDICTS: dict[Severity, str] = {"good": "good", "note": "note", "error": "bad"}


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings, each with its fix below."""
    for finding in findings:
        yield f"{MARKS[finding.severity]} {finding.about:<12} {finding.text}"
        if finding.fix:
            yield f"{'':<14} fix: {finding.fix}"


def findings_as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The findings as JSON-serializable values."""
    return [
        {
            "about": finding.about,
            "verdict": JSON_VERDICTS[finding.severity],
            "text": finding.text,
            "fix": finding.fix,
        }
        for finding in findings
    ]
