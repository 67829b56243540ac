"""Run of six steps for the tests of the report."""

from __future__ import annotations

import pytest

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.runs.directory import RunDirectory
from tests.analysis.reported_run import RUN
from tests.support import synthetic_run


@pytest.fixture
def finished() -> RunDirectory:
    """A completed run of six steps, with its profile."""
    synthetic_run.write(RUN / "events.jsonl", steps=6)
    (RUN / "config.yaml").write_text(to_yaml(resolve("quickstart").config))
    return RunDirectory(RUN.resolve())
