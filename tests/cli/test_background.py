"""Start of background runs: the run directory that is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.cli import background
from ida_tui.config.resolve import resolve
from ida_tui.engine.run.background import BackgroundRun
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory, point_latest


def test_the_directory_of_the_run_itself_is_printed_and_not_the_latest_link(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(Path("outputs/quickstart/zz-run"))  # sorts after `latest`
    run.path.mkdir(parents=True)
    owner.claim(run)
    point_latest(run)
    pid = owner.owner_pid(run)
    assert pid is not None

    def launch(_: Sequence[str], find: Callable[[int], RunDirectory | None]) -> Any:
        found = find(pid)
        assert found is not None
        return BackgroundRun(pid, found)

    monkeypatch.setattr(background.background, "launch", launch)
    background.start_in_background(resolve("quickstart", []).config, [])

    out = capsys.readouterr().out
    assert "--stop" in out
    assert "outputs/quickstart/zz-run" in out
    assert "latest" not in out
