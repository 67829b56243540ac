"""Processors that a process may use: its affinity, and the limits of Linux control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ida_tui.system.processors import processor_share, usable_processors


def groups_of(tmp_path: Path, listed: str, files: dict[str, str]) -> tuple[Path, Path]:
    """The files of Linux for a process in these control groups."""
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (tmp_path / "self").write_text(listed)
    return tmp_path / "cgroup", tmp_path / "self"


@pytest.mark.parametrize(
    ("listed", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, 8),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, 8),
        (
            "4:cpu,cpuacct:/a\n3:cpuset:/b\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "4:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("nonsense\n", {}, 8),
    ],
)
def test_a_control_group_limits_the_processors(
    listed: str, files: dict[str, str], expected: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_processors(*groups_of(tmp_path, listed, files)) == expected


def test_only_the_processors_of_the_affinity_are_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert usable_processors(*groups_of(tmp_path, "", {})) == 2


@pytest.mark.parametrize(("runs", "processes", "expected"), [("2", 1, 4), ("2", 3, 1), ("x", 1, 8)])
def test_runs_and_processes_share_the_processors(
    runs: str, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ida_tui.system.processors.usable_processors", lambda: 8)
    monkeypatch.setenv("IDA_TUI_SHARED_BY", runs)
    assert processor_share(processes) == expected
