"""Launchers that would start separate runs, and torchruns that start their processes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ida_tui.cli import restarted
from ida_tui.config.resolve import resolve
from ida_tui.errors import ExitCode, UsageError
from ida_tui.runs.store import manifest
from ida_tui.system import launcher
from tests.conftest import IdaTui

ACCELERATE = {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "MASTER_ADDR",
        "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID", *launcher.MPI_COUNTS,
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "arguments", [("--run", "quickstart"), ("run", "quickstart"), ("resume", "quickstart")]
)
def test_srun_without_torchrun_is_refused(arguments: tuple[str, ...], ida_tui_here: IdaTui) -> None:
    refused = ida_tui_here(*arguments, SLURM_NTASKS="4", SLURM_PROCID="1")
    assert refused.code == ExitCode.USAGE
    assert "4 separate runs would start" in refused.err
    assert "srun --ntasks-per-node=1 torchrun" in refused.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"},
            "srun starts 2 proc",
        ),
        (
            {"WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"},
            "srun started 2 torchruns that do not know of each other",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun would start 2 separate runs"),
        ({**ACCELERATE, "MASTER_ADDR": "10.0.0.1"}, "accelerate launch has several machines"),
    ],
)
def test_separate_runs_are_refused(
    variables: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(UsageError, match=problem):
        launcher.require_one_run()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "8"},  # the shell of salloc
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        # torchrun in a batch script, and as a task on each of two nodes
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"},
        {**ACCELERATE, "MASTER_ADDR": "127.0.0.1"},
        {**ACCELERATE, "MASTER_ADDR": "10.0.0.1", "WORLD_SIZE": "2"},
    ],
)
def test_one_run_is_not_refused(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, variables)
    launcher.require_one_run()
    assert bool(launcher.single_process_note()) == (
        variables == {**ACCELERATE, "MASTER_ADDR": "127.0.0.1"}
    )


def test_other_commands_work_in_every_task_of_srun(ida_tui_here: IdaTui) -> None:
    assert ida_tui_here("--list", SLURM_NTASKS="4", SLURM_PROCID="1").code == 0


# --- a torchrun that starts its processes again --------------------------------------------------


def finished_run(job_id: str, status: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that a torchrun has started, with this end; the environment is that of a restart."""
    folder = Path("outputs/quickstart/20260101-000000")
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job_id)
    (folder / "manifest.json").write_text(json.dumps(launcher.launcher_record()))
    ended: dict[str, Any] = dict.fromkeys(("reward_first", "reward_last", "cost"), None) | {
        "weight_delta": 0.0,
        "seconds": 1.0,
        "steps_done": 1,
        "message": "",
        "hint": "",
    }
    (folder / "events.jsonl").write_text(
        json.dumps({"v": 2, "seq": 1, "time": "2026-01-01T00:00:00Z", "type": "RunEnded",
                    "status": status, "exit_code": 130, **ended}) + "\n"
    )  # fmt: skip
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    return folder


@pytest.mark.parametrize("job_id", ["job-1", launcher.UNNAMED_JOB])
def test_a_restart_finds_the_run_of_its_torchrun_only(
    job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("quickstart").config
    folder = finished_run(job_id, "failed", monkeypatch)
    found = restarted.restarted_run(config)
    assert found is not None
    assert found.path == folder.resolve()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another-job")
    assert restarted.restarted_run(config) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job_id)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert restarted.restarted_run(config) is None, "the first start of a job is a new run"
    (folder / "manifest.json").write_text("{}")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted.restarted_run(config) is None


@pytest.mark.parametrize(
    "arguments", [("run", "quickstart"), ("resume", "quickstart/20260101-000000")]
)
def test_a_restart_does_not_continue_a_run_that_somebody_has_stopped(
    arguments: tuple[str, ...], ida_tui_here: IdaTui, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("job-1", "interrupted", monkeypatch)
    done = ida_tui_here(*arguments)
    assert done.code == ExitCode.INTERRUPTED
    assert "the run has ended (interrupted): a restart of torchrun does not continue it" in done.err
    assert len(list(Path("outputs/quickstart").iterdir())) == 1


def test_a_run_records_the_torchrun_that_resumed_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-2")
    manifest.record_resume(path, resumed_at="", argv=[], threads=1)
    assert [entry and entry["job_id"] for entry in manifest.recorded_launchers(path)] == [
        "job-2",
        None,
    ]
