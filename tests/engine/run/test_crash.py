"""The crash log of an unexpected error: the details needed for debugging, and no secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from ida_tui.engine.run import crash_log
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.runs.directory import RunDirectory
from tests.engine.run.test_control import SHORT
from tests.support.judge_server import ScriptedJudge

KEY = "sk-test-0123456789"


def test_a_crash_log_has_versions_traceback_and_last_events_but_no_api_key(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"boom, with {KEY}")

    monkeypatch.setattr(InstrumentedGRPOTrainer, "training_step", broken)
    with ScriptedJudge() as server:
        done = ida_tui_here(
            "--run", *SHORT, "judge=gpt-4o-mini", f"judge.base_url={server.base_url}",
            OPENAI_API_KEY=KEY,
        )  # fmt: skip
    assert done.code == 1, done.out
    assert "✗ unexpected RuntimeError: boom, with [key]" in done.out
    assert "crash.txt for details" in done.out
    text = (Path("outputs/quickstart/latest").resolve() / "logs/crash.txt").read_text()
    assert "boom, with [key]" in text
    for expected in (
        "ida-tui ",
        "torch ",
        "trl ",
        "Traceback (most recent call last)",
        "PhaseChanged",
    ):
        assert expected in text
    assert KEY not in text + done.out + done.err


def test_a_crash_log_that_cannot_be_written_only_prints_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    directory.logs.write_text("in the way")

    crash_log.write_crash_log(directory, "a trace", redact=str)

    assert "the crash log could not be written" in capsys.readouterr().err
