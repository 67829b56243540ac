"""Spot checks of the judge's scores by a person: `spot-checks.jsonl` in the run directory.

Each line is one spot check; lines are only appended. The newest spot check of a completion counts, and
`agree: null` withdraws earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import DurableAppender, ends_with_incomplete_line
from ida_tui.util.safe_files import iterate_lines, open_regular
from ida_tui.util.text import parse_json

FILE_NAME = "spot-checks.jsonl"

CompletionKey = tuple[int, int, int]
"""Step, group and index, which identify a completion within its run."""


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """A person's opinion on the scores of one completion."""

    step: int
    group: int
    index: int
    agree: bool | None
    """Whether the person agrees with the scores; None withdraws an earlier spot check."""
    note: str = ""
    time: str = ""
    """UTC, ISO 8601."""

    @property
    def completion_key(self) -> CompletionKey:
        """Step, group and index of the completion."""
        return self.step, self.group, self.index


def append_check(directory: RunDirectory, check: SpotCheck) -> None:
    """Append one spot check.

    Raises:
        OSError: the write failed; the file is unchanged.
    """
    path = directory.path / FILE_NAME
    file = DurableAppender(path)
    try:
        # End an incomplete line of an earlier process, so that it is skipped as a separate line.
        newline = "\n" if ends_with_incomplete_line(path) else ""
        file.write(newline + json.dumps(asdict(check), ensure_ascii=False), durable=True)
    finally:
        file.close()


def newest_checks(directory: RunDirectory) -> dict[CompletionKey, SpotCheck]:
    """The newest spot check of each completion, without withdrawn ones."""
    checks: dict[CompletionKey, SpotCheck] = {}
    for check in _read_checks(directory.path / FILE_NAME):
        if check.agree is None:
            checks.pop(check.completion_key, None)
        else:
            checks[check.completion_key] = check
    return checks


def count_agreement(directory: RunDirectory, after_step: int = 0) -> tuple[int, int]:
    """The number of spot checks that agree with the judge, and the number of all spot checks.

    Args:
        directory: the run.
        after_step: the last step before the current scoring of the run; it and earlier ones are left out.
    """
    checks = [c for c in newest_checks(directory).values() if c.step > after_step]
    return sum(check.agree is True for check in checks), len(checks)


def _read_checks(path: Path) -> Iterator[SpotCheck]:
    try:
        with open_regular(path) as file:
            for raw in iterate_lines(file):
                check = _parse_check(raw)
                if check is not None:
                    yield check
    except OSError:
        return


def _parse_check(raw: bytes) -> SpotCheck | None:
    """The spot check in a line; None if the line is incomplete or invalid."""
    try:
        check = SpotCheck(**parse_json(raw))
    except (ValueError, TypeError):
        return None
    valid_key = all(type(number) is int for number in check.completion_key)
    valid_texts = isinstance(check.note, str) and isinstance(check.time, str)
    valid_agree = check.agree is None or type(check.agree) is bool
    return check if valid_key and valid_texts and valid_agree else None
