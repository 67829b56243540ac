"""Completions that `ida-tui` offers a shell, asked in this process as argcomplete's shell code asks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from argcomplete.finders import CompletionFinder

from ida_tui.cli.completion.answer import answer_shell


def offers(line: str, **environment: str) -> list[str]:
    """The completions at the end of `ida-tui LINE`.

    Args:
        line: the command line after `ida-tui `.
        environment: variables of the shell code; the default is that of fish, which quotes nothing.
    """
    typed = f"ida-tui {line}"
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        answer = Path(folder) / "answer"
        answer.touch()
        # It would take over and close descriptor 9, which is pytest's.
        patch.setattr(CompletionFinder, "_init_debug_stream", lambda _: None)
        for name, value in {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SHELL": "fish",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": typed,
            "COMP_POINT": str(len(typed)),
            **environment,
        }.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            answer_shell()
        assert ended.value.code == 0, "argcomplete failed"
        return answer.read_text().splitlines()
