"""Creation of run directories, the `latest` link, and the check for entries that must not be written to."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from ida_tui.engine.run.crash_log import write_crash_log
from ida_tui.errors import UsageError
from ida_tui.runs.directory import (
    RunDirectory,
    create_run_directory,
    point_latest,
    require_safe_files,
    restore_latest,
)
from ida_tui.runs.store import spot_checks
from ida_tui.runs.store.chats import save_chat
from ida_tui.runs.store.judge_costs import JudgeCosts
from ida_tui.runs.store.spot_checks import SpotCheck
from tests.support.synthetic_run import write

LATEST = Path("outputs/quickstart/latest")


def create(minute: int) -> RunDirectory:
    return create_run_directory("outputs", "quickstart", datetime(2026, 1, 1, 0, minute))


def test_latest_moves_when_a_run_starts_and_back_when_its_start_fails() -> None:
    first = create(1)
    assert not os.path.lexists(LATEST)
    assert point_latest(first) == ""

    second = create(2)
    assert str(LATEST.readlink()) == first.run_id
    previous = point_latest(second)
    assert str(LATEST.readlink()) == second.run_id
    restore_latest(second, previous)
    assert str(LATEST.readlink()) == first.run_id


def test_a_failed_first_start_leaves_no_latest_link() -> None:
    first = create(1)
    restore_latest(first, point_latest(first))

    assert not os.path.lexists(LATEST)


def test_latest_of_a_later_run_is_not_moved_back() -> None:
    first, second = create(1), create(2)
    previous = point_latest(first)
    point_latest(second)
    restore_latest(first, previous)

    assert str(LATEST.readlink()) == second.run_id


@pytest.mark.parametrize(
    "name",
    [
        "adapter/chat_template.jinja",
        "adapter/README.md",
        "logs/crash.txt",
        "evaluations",
        "export",
        "chats",
        "checkpoints/checkpoint-1/adapter_config.json",
        "wandb/run-1/files/config.yaml",
    ],
)
def test_a_run_with_a_link_at_any_depth_is_not_written_to(name: str) -> None:
    directory = create(1)
    path = directory.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Path("victim").write_text("kept")
    path.symlink_to(Path("victim").absolute())

    with pytest.raises(UsageError, match=f"{name} in .* is not a regular file or folder"):
        require_safe_files(directory)


def test_the_links_of_ida_tui_and_of_wandb_are_accepted() -> None:
    directory = create(1)
    (directory.checkpoints / "checkpoint-3").mkdir(parents=True)
    (directory.checkpoints / "latest").symlink_to("checkpoint-3")
    (directory.path / "wandb/run-1").mkdir(parents=True)
    (directory.path / "wandb/latest-run").symlink_to("run-1")
    require_safe_files(directory)

    (directory.checkpoints / "latest").unlink()
    (directory.checkpoints / "latest").symlink_to("../../../other/checkpoints")
    with pytest.raises(UsageError, match="checkpoints/latest"):
        require_safe_files(directory)


def test_no_writer_of_a_run_follows_a_link() -> None:
    write(Path("run/events.jsonl"), steps=1)
    directory, victim = RunDirectory(Path("run")), Path("victim")
    victim.write_text("kept")
    directory.logs.mkdir(exist_ok=True)
    for name in ("logs/crash.txt", "spot-checks.jsonl", "judge-costs.jsonl"):
        (directory.path / name).symlink_to(victim.absolute())
    Path("outside").mkdir()
    (directory.path / "chats").symlink_to(Path("outside").absolute())

    write_crash_log(directory, "Traceback", redact=str)
    with pytest.raises(OSError, match="it is a link"):
        spot_checks.append_check(directory, SpotCheck(1, 0, 0, True))
    with pytest.raises(OSError, match="it is a link"):
        JudgeCosts(directory, "train").start(0.1)
    with pytest.raises(OSError, match="it is a link"):
        save_chat(directory, [("Hello", "harmless")], datetime(2026, 1, 1))

    assert victim.read_text() == "kept"
    assert not list(Path("outside").iterdir())
    assert not (directory.logs / "crash.txt").is_symlink()
