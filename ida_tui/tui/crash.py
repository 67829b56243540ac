"""Crash report of the app: the traceback goes to a file, a short error to the user."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from ida_tui import __version__
from ida_tui.errors import IdaError


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The error that the user sees after the app has crashed."""

    error: IdaError

    @classmethod
    def write(cls, error: BaseException, log: Path) -> CrashReport:
        """Write the traceback to `log`. If that fails, the error's hint says so."""
        text = "".join(traceback.format_exception(error))
        details = f"the traceback is in {log}"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(log, "a", encoding="utf-8"))
                file.write(f"ida-tui {__version__}\n{text}\n")
        except OSError as write_error:
            details = f"the traceback was lost: could not write {log} ({write_error.strerror})"
        return cls(
            IdaError(
                f"the app crashed: {type(error).__name__}: {error}",
                f"{details}; a live run was stopped and saved its progress",
            )
        )
