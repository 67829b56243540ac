"""Everything that can end a command, typed: one error class, one enum of exit codes.

An `IdaError` is the only exception a person is meant to see. It says what is wrong (`title`), where
(`where`: ``file:line: key``) and what to do about it (`hint`); the command line prints those lines
and exits with its `code`. Any other exception that escapes is a defect of this program.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every `ida-tui` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """The command line or a profile is wrong; nothing was started."""
    JUDGE_UNAVAILABLE = 3
    OUT_OF_MEMORY = 4
    DEVICE_UNUSABLE = 5
    STOPPED_BY_ALERT = 6
    INTERRUPTED = 130
    """Stopped by the user; a checkpoint was written."""


class IdaError(Exception):
    """A failure that is explained to the user.

    Args:
        title: one sentence that says what is wrong, without a trailing full stop.
        hint: what to type or change to mend it; may be empty.
        where: the place at fault, as ``file:line: key`` or ``command line: key``; may be empty.
        code: the exit status of the command that ends with this error.
    """

    def __init__(
        self,
        title: str,
        hint: str = "",
        *,
        where: str = "",
        code: ExitCode = ExitCode.FAILED,
    ) -> None:
        super().__init__(title)
        self.title = title
        self.hint = hint
        self.where = where
        self.code = code

    def lines(self) -> list[str]:
        """The error as printed, at most a handful of lines: title, then place, then fix."""
        lines = [f"error: {self.title}"]
        if self.where:
            lines.append(f"  at:  {self.where}")
        if self.hint:
            first, *rest = self.hint.splitlines()
            lines.append(f"  fix: {first}")
            lines.extend(f"       {line}" for line in rest)
        return lines


class UsageError(IdaError):
    """A wrong command line or profile: exit code 2, before anything is loaded or written."""

    def __init__(self, title: str, hint: str = "", *, where: str = "") -> None:
        super().__init__(title, hint, where=where, code=ExitCode.USAGE)
