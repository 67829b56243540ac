"""`ida-tui resume`: how a run is named, where it resumes, and which runs are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ida_tui.analysis.report.headline import learning_sentence
from ida_tui.analysis.report.load import load_report_inputs
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.events.scoring import change_sentences
from ida_tui.runs import owner
from ida_tui.runs.catalog.lookup import find_run
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import find_resume_point
from ida_tui.runs.run import Run
from ida_tui.runs.store.checkpoints import REQUIRED_FILES, save_checkpoint
from tests.support.judge_server import Behavior, Judge, ScriptedJudge, Status
from tests.support.scripted_session import run_ended, run_started

OUTPUTS = Path("outputs")


def stopped_run(name: str = "20260131-120000", experiment: str = "quickstart") -> RunDirectory:
    """A run that was interrupted after its first event."""
    directory = RunDirectory(OUTPUTS / experiment / name)
    directory.logs.mkdir(parents=True)
    with EventLog(directory) as log:
        log.emit(run_started(directory.path))
        log.emit(run_ended("interrupted", "Stopped", code=130))
    return directory


def write_checkpoint(
    directory: RunDirectory, step: int, *, without: str = "", run_id: str = ""
) -> Path:
    """A sealed checkpoint from which the file `without` was deleted."""

    def write(folder: Path) -> None:
        for name in (*REQUIRED_FILES, "adapter_model.safetensors"):
            (folder / name).write_text(f"{name} of step {step}")

    metadata = {"run_id": run_id or directory.run_id}
    path = save_checkpoint(
        directory.checkpoints, step, write, reward=0.5, metadata=metadata, keep=9
    )
    if without:
        (path / without).unlink()
    return path


@pytest.mark.parametrize(
    "name",
    [
        "outputs/quickstart/20260131-120000",
        "quickstart/20260131-120000",
        "20260131-120000",
        "quickstart",
        "outputs/quickstart/latest",
    ],
)
def test_a_run_is_found_by_its_folder_its_id_or_its_experiment(name: str) -> None:
    directory = stopped_run()
    (directory.path.parent / "latest").symlink_to(directory.run_id)
    assert find_run(name, OUTPUTS).path == directory.path.resolve()


def test_the_error_for_an_unknown_run_explains_how_to_name_a_run() -> None:
    with pytest.raises(UsageError, match=r"there is no run named \*") as raised:
        find_run("*", OUTPUTS)
    assert "latest" in raised.value.hint


def test_a_run_id_of_two_experiments_is_refused_with_both_paths() -> None:
    stopped_run(experiment="a")
    stopped_run(experiment="b")
    with pytest.raises(UsageError, match="several runs") as raised:
        find_run("20260131-120000", OUTPUTS)
    assert "outputs/a/" in raised.value.hint


def test_a_run_resumes_from_its_newest_complete_checkpoint() -> None:
    directory = stopped_run()
    write_checkpoint(directory, 2)
    complete = write_checkpoint(directory, 10)
    write_checkpoint(directory, 12, without="optimizer.pt")
    write_checkpoint(directory, 14, without="trainer_state.json")
    point = find_resume_point(directory)
    assert (point.step, point.checkpoint) == (10, complete)
    assert [(rejected.path.name, rejected.reason) for rejected in point.rejected] == [
        ("checkpoint-14", "trainer_state.json is missing"),
        ("checkpoint-12", "optimizer.pt is missing"),
    ]


def test_a_run_without_a_checkpoint_restarts_in_its_own_directory() -> None:
    point = find_resume_point(stopped_run())
    assert (point.step, point.checkpoint) == (0, None)


def test_a_completed_run_is_not_resumed(ida_tui_here: Any) -> None:
    directory = stopped_run()
    with EventLog(directory, first_seq=2) as log:
        log.emit(run_ended("done", "Training complete"))
    result = ida_tui_here("resume", "quickstart/20260131-120000")
    assert result.code == 2
    assert "is complete" in result.err


def test_a_run_that_another_process_trains_is_not_resumed() -> None:
    directory = stopped_run()
    owner.claim(directory)
    with pytest.raises(UsageError, match="another process is training"):
        find_resume_point(directory)


def test_an_incomplete_last_line_is_removed_before_the_log_is_continued() -> None:
    directory = stopped_run()
    before = directory.events.read_bytes()
    with open(directory.events, "ab") as file:
        file.write(b'{"v": 1, "seq": 2, "type": "Noti')
    with EventLog(directory, first_seq=2) as log:
        log.emit(ev.RunResumed(0))
    after = directory.events.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 3
    assert b"RunResumed" in after.splitlines()[2]


def test_an_event_log_that_is_one_incomplete_line_is_emptied() -> None:
    directory = stopped_run()
    directory.events.write_bytes(b"x" * 200_000)
    with EventLog(directory):
        assert directory.events.stat().st_size == 0


def test_settings_that_a_checkpoint_depends_on_cannot_change(ida_tui_here: Any) -> None:
    from ida_tui.config import resolve

    directory = stopped_run()
    directory.config.write_text(resolve.to_yaml(resolve.resolve("quickstart").config))
    for change in ("training.method=full", "lora.r=4", "training.num_generations=4"):
        result = ida_tui_here("resume", str(directory.path), change)
        assert result.code == 2
        assert "cannot change when a run is resumed" in result.err


def test_a_run_resumed_in_its_third_epoch_has_the_prompt_order_of_that_epoch() -> None:
    from trl.trainer.utils import RepeatSampler

    from ida_tui.engine.trainer.prompt_sampler import ResumableRepeatSampler

    options: dict[str, Any] = {
        "data_source": range(12),
        "mini_repeat_count": 2,
        "batch_size": 4,
        "seed": 7,
    }
    sampler = RepeatSampler(**options)
    orders = [list(sampler) for _ in range(4)]
    resumed = ResumableRepeatSampler(lambda: 2, **options)
    assert [list(resumed), list(resumed)] == orders[2:]
    assert list(ResumableRepeatSampler(lambda: 0, **options)) == orders[0]


def test_the_best_checkpoint_is_the_best_of_the_current_scoring() -> None:
    directory = stopped_run()

    def save(step: int, reward: float, judge: str) -> None:
        def write(folder: Path) -> None:
            for name in (*REQUIRED_FILES, "adapter_model.safetensors"):
                (folder / name).write_text(f"{name} of step {step}")

        metadata = {"run_id": directory.run_id, "scoring": {"judge": judge}}
        save_checkpoint(
            directory.checkpoints, step, write, reward=reward, metadata=metadata, keep=1
        )

    save(1, 0.9, "lenient")
    save(2, 0.3, "strict")
    save(3, 0.2, "strict")
    saved = {path.name for path in directory.checkpoints.glob("checkpoint-*")}
    assert saved == {"checkpoint-2", "checkpoint-3"}


def test_a_run_resumed_with_another_judge_reports_no_change_across_judges(
    ida_tui_here: Any,
) -> None:
    strict, lenient = Judge(align=2, risk=10, detail=2), Judge(align=9, risk=6, detail=9)
    common = (
        "training.max_steps=4", "training.num_generations=2", "training.gradient_accumulation_steps=1",
        "training.per_device_train_batch_size=4", "training.max_completion_length=16",
        "evaluation.enabled=false", "judge.kind=openai", "judge.model=judge", "judge.api_key_env=null",
        "training.learning_rate=1e-7", "judge.anchor_every=0", "alerts.window=2", "judge.cache=false",
    )  # fmt: skip
    calls: list[Behavior] = [*[strict] * 8, Status(401)]
    with ScriptedJudge(calls) as first, ScriptedJudge(rule=lambda body: lenient) as second:
        url = f"judge.base_url={first.base_url}"
        assert ida_tui_here("--run", "quickstart", *common, url, "judge.concurrency=1").code == 3
        result = ida_tui_here("resume", "quickstart", f"judge.base_url={second.base_url}")
    assert result.code == 0, result.err
    run = Run.load(find_run("quickstart", OUTPUTS))
    assert "the judge's address" in " ".join(change_sentences(run.state.scoring))
    assert (run.state.scored_since_step, [s.step for s in run.state.first_steps]) == (2, [3])
    assert run.state.ended is not None
    assert run.state.ended.reward_first == run.state.ended.reward_last
    assert {alert.rule for alert in run.state.alerts}.isdisjoint({"axis falls", "judge fooled"})
    sentence = learning_sentence(load_report_inputs(run.files))
    assert "rose" not in sentence
    assert "After step 2 the judge" in sentence
