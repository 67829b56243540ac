"""A defect of the app itself: the traceback goes to a file, one sentence to the person."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from ida_tui import __version__
from ida_tui.errors import IdaError


@dataclass(frozen=True, slots=True)
class Crash:
    """What a person is told of a defect."""

    error: IdaError

    @classmethod
    def written(cls, error: BaseException, log: Path) -> Crash:
        """Write the traceback to `log`; where even that fails, the sentence says so."""
        text = "".join(traceback.format_exception(error))
        where = str(log)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(log, "a", encoding="utf-8"))
                file.write(f"ida-tui {__version__}\n{text}\n")
        except OSError as refused:
            where = f"nowhere: {log} could not be written ({refused.strerror})"
        return cls(
            IdaError(
                f"the app stopped on a defect of its own: {type(error).__name__}: {error}",
                f"the details are in {where}; a run that was live has saved what it had",
            )
        )
