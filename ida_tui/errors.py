"""Errors and exit codes of all commands: `IdaError`, `UsageError` and `ExitCode`.

`IdaError` is the only exception that users are meant to see. It says what is wrong (`title`), where
(`where`: `file:line: key`) and how to fix it (`hint`); the command line prints those lines and exits with
`code`. Any other exception that reaches the command line is a bug in this program,
except for those of the machine: `out_of_memory_message` recognizes that memory ran out.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every `ida-tui` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """Invalid command line or profile; nothing was started."""
    JUDGE_UNAVAILABLE = 3
    OUT_OF_MEMORY = 4
    DEVICE_UNUSABLE = 5
    STOPPED_BY_ALERT = 6
    INTERRUPTED = 130
    """Stopped by the user; a checkpoint was written."""


class IdaError(Exception):
    """An error with an explanation for the user.

    Args:
        title: one sentence that says what is wrong, without a trailing period.
        hint: what to type or change to fix it; may be empty.
        where: location of the error, as `file:line: key` or `command line: key`; may be empty.
        code: exit status of the command that ends with this error.
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

    def __reduce__(self) -> tuple[object, ...]:
        """How to copy the error to another process, also if its class takes other arguments."""
        return _copy_error, (type(self), self.args, self.__dict__)

    def lines(self) -> list[str]:
        """The error as printed: title, location and fix."""
        lines = [f"error: {self.title}"]
        if self.where:
            lines.append(f"  at:  {self.where}")
        if self.hint:
            first, *rest = self.hint.splitlines()
            lines.append(f"  fix: {first}")
            lines.extend(f"       {line}" for line in rest)
        return lines


def _copy_error(
    error_class: type[IdaError], args: tuple[object, ...], attributes: dict[str, object]
) -> IdaError:
    copy = error_class.__new__(error_class, *args)
    copy.__dict__.update(attributes)
    return copy


class UsageError(IdaError):
    """An invalid command line or profile: exit code 2, before anything is loaded or written."""

    def __init__(self, title: str, hint: str = "", *, where: str = "") -> None:
        super().__init__(title, hint, where=where, code=ExitCode.USAGE)


OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
)
"""Messages of torch's allocators, on the CPU in an ordinary RuntimeError; the last one is oneDNN's."""


def out_of_memory_message(error: BaseException) -> str:
    """Message for an error that means that memory ran out; empty for any other error."""
    message = short_text(error)
    if isinstance(error, MemoryError) or any(
        phrase in message.lower() for phrase in OUT_OF_MEMORY_PHRASES
    ):
        return f"out of memory: {message}" if message else "out of memory"
    return ""


def short_text(error: BaseException) -> str:
    """The message of another program's error, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def missing_library_error(error: ModuleNotFoundError) -> IdaError:
    """The error to show where a library is not installed, as in the distribution `ida-tui-viewer`."""
    return IdaError(
        f"{error.name} is not installed, so this command cannot run",
        "ida-tui-viewer only shows runs; install ida-tui in its place, or repair a clone with: uv sync",
    )
