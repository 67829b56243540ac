"""Saved checkpoints: which ones belong to a run, also after its directory was renamed or copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ida_tui.events.state import fold_all
from ida_tui.runs import resume
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.store.checkpoints import REQUIRED_FILES, save_checkpoint
from tests.support.scripted_session import run_started


def save(directory: RunDirectory, step: int, text: str, **metadata: Any) -> Path:
    def write_files(folder: Path) -> None:
        for name in (*REQUIRED_FILES, "adapter_model.safetensors"):
            (folder / name).write_text(text)

    seal: Mapping[str, Any] = {"run_id": directory.run_id, **metadata}
    return save_checkpoint(
        directory.checkpoints, step, write_files, reward=0.5, metadata=seal, keep=2
    )


def weights_of(checkpoint: Path) -> str:
    return (checkpoint / "adapter_model.safetensors").read_text()


@pytest.fixture
def directory() -> RunDirectory:
    directory = RunDirectory(Path("outputs/quickstart/first"))
    directory.logs.mkdir(parents=True)
    with EventLog(directory) as log:
        log.emit(run_started(directory.path, 10))
    return directory


def test_a_checkpoint_of_another_run_is_not_taken_for_a_saved_one(directory: RunDirectory) -> None:
    other = save(directory, 3, "other", run_id="another-run")

    saved = save(directory, 3, "own")

    assert saved == other
    assert weights_of(saved) == "own"


def test_a_damaged_checkpoint_of_the_same_step_is_written_again(directory: RunDirectory) -> None:
    saved = save(directory, 3, "right")
    (saved / "adapter_model.safetensors").write_text("wrong")  # of the same size

    assert weights_of(save(directory, 3, "again")) == "again"


def test_a_whole_checkpoint_of_this_run_is_not_written_again(directory: RunDirectory) -> None:
    save(directory, 3, "first")

    assert weights_of(save(directory, 3, "second")) == "first"


def test_a_renamed_run_resumes_from_its_checkpoints_again_and_again(
    directory: RunDirectory,
) -> None:
    run_id = directory.run_id
    save(directory, 4, "weights")
    renamed = RunDirectory(directory.path.rename(directory.path.with_name("mine")))

    for _ in range(2):
        point = resume.find_resume_point(renamed)
        assert (point.step, point.rejected) == (4, ())
        assert point.state.run_ids[0] == run_id
        # An older version wrote the new name when it resumed.
        with EventLog(renamed, first_seq=point.state.seq + 1) as log:
            log.emit(run_started(renamed.path, 10))

    state = fold_all(read_events(renamed.events))
    assert state.run_ids == (run_id, "mine")


def test_a_linked_checkpoint_folder_is_not_written_to(directory: RunDirectory) -> None:
    Path("outside").mkdir()
    directory.checkpoints.symlink_to(Path("outside").absolute())

    with pytest.raises(OSError, match="it is a link"):
        save(directory, 1, "weights")

    assert not list(Path("outside").iterdir())
